package inject

import (
	"cmp"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	"github.com/jcmturner/gokrb5/v8/client"
	"github.com/jcmturner/gokrb5/v8/config"
	"github.com/jcmturner/gokrb5/v8/credentials"
	"github.com/jcmturner/gokrb5/v8/crypto"
	"github.com/jcmturner/gokrb5/v8/iana/errorcode"
	"github.com/jcmturner/gokrb5/v8/iana/keyusage"
	"github.com/jcmturner/gokrb5/v8/iana/nametype"
	"github.com/jcmturner/gokrb5/v8/iana/patype"
	"github.com/jcmturner/gokrb5/v8/messages"
	"github.com/jcmturner/gokrb5/v8/spnego"
	krbtypes "github.com/jcmturner/gokrb5/v8/types"
)

// A kerberosTicket is a ticket with its session key.
type kerberosTicket struct {
	ticket messages.Ticket
	key    krbtypes.EncryptionKey
	client *credentials.Credentials
	end    time.Time
	from   string // the mark of the identity
	uses   atomic.Int64
}

// token is a SPNEGO token with a new authenticator.
func (t *kerberosTicket) token() ([]byte, error) {
	// The library's client is no more than the bearer of the name here: its own way to the KDC has no context and no bounds.
	init, err := spnego.NewNegTokenInitKRB5(&client.Client{Credentials: t.client}, t.ticket, t.key)
	if err != nil {
		return nil, err
	}
	token := spnego.SPNEGOToken{Init: true, NegTokenInit: init}
	return token.Marshal()
}

const (
	maxKerberosFile  = 1 << 20
	maxKDCAnswer     = 256 << 10
	kdcPatience      = 5 * time.Second // with one of several
	maxReferrals     = 5
	defaultKerberos  = "/etc/krb5.conf"
	preferredService = nametype.KRB_NT_PRINCIPAL
)

// fetch gets a ticket for service from the KDC, as id.
func (n *negotiate) fetch(ctx context.Context, id identity, service string) (*kerberosTicket, error) {
	cfg, err := n.loadConfig()
	if err != nil {
		return nil, err
	}
	k := &kdcs{cfg: cfg}
	granting, err := n.granting(ctx, k, id)
	if err != nil {
		return nil, err
	}
	realm := granting.client.Domain()
	_, host, _ := strings.Cut(service, "/")
	if other := cfg.ResolveRealm(host); other != "" && other != realm {
		if granting, err = k.ask(ctx, realm, granting, krbtypes.PrincipalName{NameType: nametype.KRB_NT_SRV_INST, NameString: []string{"krbtgt", other}}); err != nil {
			return nil, err
		}
		realm = other
	}
	name := krbtypes.NewPrincipalName(preferredService, service)
	for range maxReferrals {
		t, err := k.ask(ctx, realm, granting, name)
		if err != nil {
			return nil, err
		}
		if got := t.ticket.SName.NameString; len(got) != 2 || got[0] != "krbtgt" {
			t.from = id.mark
			return t, nil
		}
		granting, realm = t, t.ticket.SName.NameString[1] // the service is there (RFC 6806 section 8)
	}
	return nil, kerberosFault("kdc_failed", "the KDCs refer to each other for "+service, "see the realms in krb5.conf")
}

// loadConfig reads krb5.conf. KRB5_CONFIG may list several files; the first one that is there counts.
func (n *negotiate) loadConfig() (*config.Config, error) {
	for _, path := range filepath.SplitList(cmp.Or(n.config, os.Getenv("KRB5_CONFIG"), defaultKerberos)) {
		text, err := readBounded(path)
		if errors.Is(err, os.ErrNotExist) {
			continue
		}
		if err == nil {
			var cfg *config.Config
			cfg, err = config.NewFromString(string(text))
			if _, harmless := errors.AsType[config.UnsupportedDirective](err); err == nil || harmless && cfg != nil {
				return cfg, nil
			}
		}
		return nil, kerberosFault("kdc_failed", "the Kerberos configuration "+path+" cannot be read", "ls -l "+path+"; see man krb5.conf")
	}
	return nil, kerberosFault("kdc_failed", "there is no Kerberos configuration", "write "+defaultKerberos+", or set KRB5_CONFIG")
}

func readBounded(path string) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer func() { _ = f.Close() }()
	b, err := io.ReadAll(io.LimitReader(f, maxKerberosFile+1))
	if err == nil && len(b) > maxKerberosFile {
		err = errors.New("too large")
	}
	return b, err
}

// granting returns the ticket that gets other tickets.
func (n *negotiate) granting(ctx context.Context, k *kdcs, id identity) (*kerberosTicket, error) {
	user, realm, _ := strings.Cut(n.principal, "@")
	realm = cmp.Or(realm, k.cfg.LibDefaults.DefaultRealm)
	if id.keytab == nil {
		t, err := fromCache(id.ccache)
		switch {
		case err != nil:
			return nil, err
		case n.principal != "" && (t.client.UserName() != user || t.client.Domain() != realm):
			return nil, kerberosFault("ticket_missing", "the ticket cache is not that of "+n.principal, "kinit "+n.principal)
		case !n.now().Before(t.end):
			return nil, kerberosFault("ticket_expired", "the Kerberos ticket has expired", strings.TrimSpace("kinit "+n.principal))
		}
		return t, nil
	}
	if t := n.grantingByKeytab.Load(); t != nil && t.from == id.mark && n.now().Before(t.end.Add(-ticketMargin)) {
		return t, nil
	}
	t, err := k.login(ctx, credentials.New(user, realm).WithKeytab(id.keytab))
	if err != nil {
		return nil, err
	}
	t.from = id.mark
	n.grantingByKeytab.Store(t)
	return t, nil
}

// fromCache reads the ticket-granting ticket of a cache.
func fromCache(path string) (t *kerberosTicket, err error) {
	damaged := kerberosFault("ticket_missing", "the Kerberos ticket cache cannot be read, or has no ticket for its own realm", "kinit")
	defer func() {
		if recover() != nil { // the library takes every length for true
			t, err = nil, damaged
		}
	}()
	b, err := readBounded(path)
	if err != nil {
		return nil, damaged
	}
	var cache credentials.CCache
	if err := cache.Unmarshal(b); err != nil {
		return nil, damaged
	}
	realm := cache.GetClientRealm()
	entry, ok := cache.GetEntry(krbtypes.PrincipalName{NameType: nametype.KRB_NT_SRV_INST, NameString: []string{"krbtgt", realm}})
	if !ok {
		return nil, damaged
	}
	t = &kerberosTicket{key: entry.Key, client: cache.GetClientCredentials(), end: entry.EndTime}
	if err := t.ticket.Unmarshal(entry.Ticket); err != nil {
		return nil, damaged
	}
	return t, nil
}

// kdcs speaks with the KDCs of a configuration.
type kdcs struct{ cfg *config.Config }

// ask gets a ticket for name from realm's KDC (RFC 4120 section 3.3).
func (k *kdcs) ask(ctx context.Context, realm string, granting *kerberosTicket, name krbtypes.PrincipalName) (*kerberosTicket, error) {
	req, err := messages.NewTGSReq(granting.client.CName(), realm, k.cfg, granting.ticket, granting.key, name, false)
	if err != nil {
		return nil, oddAnswer(realm)
	}
	message, err := req.Marshal()
	if err != nil {
		return nil, oddAnswer(realm)
	}
	answer, err := k.send(ctx, realm, message, name.PrincipalNameString())
	if err != nil {
		return nil, err
	}
	var rep messages.TGSRep
	if rep.Unmarshal(answer) != nil || rep.DecryptEncPart(granting.key) != nil {
		return nil, oddAnswer(realm)
	}
	if ok, err := rep.Verify(k.cfg, req); !ok || err != nil {
		return nil, oddAnswer(realm)
	}
	return &kerberosTicket{ticket: rep.Ticket, key: rep.DecryptedEncPart.Key, client: granting.client, end: rep.DecryptedEncPart.EndTime}, nil
}

// login gets a ticket-granting ticket with a keytab (RFC 4120 section 3.1), and proves at once that it has the key.
func (k *kdcs) login(ctx context.Context, who *credentials.Credentials) (*kerberosTicket, error) {
	realm := who.Domain()
	req, err := messages.NewASReqForTGT(realm, k.cfg, who.CName())
	if err != nil {
		return nil, oddAnswer(realm)
	}
	req.ReqBody.EType = slices.DeleteFunc(slices.Clone(req.ReqBody.EType), func(kind int32) bool {
		_, _, err := who.Keytab().GetEncryptionKey(who.CName(), realm, 0, kind)
		return err != nil
	})
	if len(req.ReqBody.EType) == 0 {
		return nil, kerberosFault("kdc_failed", "the keytab has no key for "+who.UserName()+"@"+realm+" that the configuration allows", "klist -ket FILE")
	}
	proof, err := timestamp(who, realm, req.ReqBody.EType[0])
	if err != nil {
		return nil, oddAnswer(realm)
	}
	req.PAData = append(req.PAData, krbtypes.PAData{PADataType: patype.PA_ENC_TIMESTAMP, PADataValue: proof})
	message, err := req.Marshal()
	if err != nil {
		return nil, oddAnswer(realm)
	}
	answer, err := k.send(ctx, realm, message, who.UserName())
	if err != nil {
		return nil, err
	}
	var rep messages.ASRep
	if rep.Unmarshal(answer) != nil {
		return nil, oddAnswer(realm)
	}
	if ok, err := rep.Verify(k.cfg, who, req); !ok || err != nil {
		return nil, oddAnswer(realm)
	}
	return &kerberosTicket{ticket: rep.Ticket, key: rep.DecryptedEncPart.Key, client: who, end: rep.DecryptedEncPart.EndTime}, nil
}

// timestamp is the time, encrypted with the key of a kind (RFC 4120 section 5.2.7.2).
func timestamp(who *credentials.Credentials, realm string, kind int32) ([]byte, error) {
	key, version, err := who.Keytab().GetEncryptionKey(who.CName(), realm, 0, kind)
	if err != nil {
		return nil, err
	}
	now, err := krbtypes.GetPAEncTSEncAsnMarshalled()
	if err != nil {
		return nil, err
	}
	sealed, err := crypto.GetEncryptedData(now, key, keyusage.AS_REQ_PA_ENC_TIMESTAMP, version)
	if err != nil {
		return nil, err
	}
	return sealed.Marshal()
}

func oddAnswer(realm string) error {
	return kerberosFault("kdc_failed", "what the KDC of "+realm+" says makes no sense", "check this computer's clock, and krb5.conf; then kinit")
}

// send returns the answer of one of realm's KDCs to a message about name.
func (k *kdcs) send(ctx context.Context, realm string, message []byte, name string) ([]byte, error) {
	addresses, err := k.addresses(ctx, realm)
	if err != nil || len(addresses) == 0 {
		return nil, kerberosFault("kdc_failed", "no KDC is known for "+realm, "name one in krb5.conf, under [realms]")
	}
	slug := "kdc_failed"
	for _, address := range addresses {
		answer, err := exchangeWithKDC(ctx, address, message)
		if err != nil {
			if timeout, ok := errors.AsType[net.Error](err); ok && timeout.Timeout() {
				slug = "kdc_timeout"
			}
			continue
		}
		var refusal messages.KRBError
		if refusal.Unmarshal(answer) == nil {
			return nil, refusedBy(realm, name, refusal.ErrorCode)
		}
		return answer, nil
	}
	if err := ctx.Err(); errors.Is(err, context.Canceled) {
		return nil, err
	}
	return nil, kerberosFault(slug, "no KDC of "+realm+" answers", "check the network, and the [realms] in krb5.conf")
}

// addresses are those of krb5.conf, or of DNS.
func (k *kdcs) addresses(ctx context.Context, realm string) ([]string, error) {
	i := slices.IndexFunc(k.cfg.Realms, func(r config.Realm) bool { return r.Realm == realm && len(r.KDC) > 0 })
	if i >= 0 {
		return k.cfg.Realms[i].KDC, nil
	}
	if !k.cfg.LibDefaults.DNSLookupKDC {
		return nil, nil
	}
	_, found, err := net.DefaultResolver.LookupSRV(ctx, "kerberos", "tcp", realm)
	var out []string
	for _, s := range found {
		out = append(out, net.JoinHostPort(strings.TrimSuffix(s.Target, "."), strconv.Itoa(int(s.Port))))
	}
	return out, err
}

// exchangeWithKDC sends one message over TCP, which every KDC speaks (RFC 4120 section 7.2.2).
func exchangeWithKDC(ctx context.Context, address string, message []byte) ([]byte, error) {
	ctx, cancel := context.WithTimeout(ctx, kdcPatience)
	defer cancel()
	conn, err := (&net.Dialer{}).DialContext(ctx, "tcp", address)
	if err != nil {
		return nil, err
	}
	defer context.AfterFunc(ctx, func() { _ = conn.SetDeadline(time.Unix(1, 0)) })()
	defer func() { _ = conn.Close() }()
	if _, err := conn.Write(append(binary.BigEndian.AppendUint32(nil, uint32(len(message))), message...)); err != nil {
		return nil, err
	}
	var length [4]byte
	if _, err := io.ReadFull(conn, length[:]); err != nil {
		return nil, err
	}
	size := binary.BigEndian.Uint32(length[:])
	if size > maxKDCAnswer {
		return nil, errors.New("the answer is too large")
	}
	answer := make([]byte, size)
	_, err = io.ReadFull(conn, answer)
	return answer, err
}

// refusedBy is what a KDC's error means (RFC 4120 section 7.5.9).
func refusedBy(realm, name string, code int32) error {
	switch code {
	case errorcode.KDC_ERR_S_PRINCIPAL_UNKNOWN:
		return kerberosFault("kdc_failed", "the KDC of "+realm+" does not know "+name, "ask for the server's name in Kerberos, and set service: HTTP/NAME in the rule")
	case errorcode.KDC_ERR_C_PRINCIPAL_UNKNOWN:
		return kerberosFault("kdc_failed", "the KDC of "+realm+" does not know the user "+name, "correct the field principal")
	case errorcode.KDC_ERR_PREAUTH_FAILED:
		return kerberosFault("kdc_failed", "the KDC of "+realm+" does not take the keytab", "get a new keytab; the password has changed")
	case errorcode.KRB_AP_ERR_SKEW:
		return kerberosFault("kdc_failed", "this computer's clock and that of the KDC differ", "set the clock")
	case errorcode.KRB_AP_ERR_TKT_EXPIRED, errorcode.KDC_ERR_NEVER_VALID:
		return kerberosFault("ticket_expired", "the Kerberos ticket has expired", "kinit")
	}
	return kerberosFault("kdc_failed", fmt.Sprintf("the KDC of %s refuses a ticket for %s (error %d)", realm, name, code), "kvno "+name)
}
