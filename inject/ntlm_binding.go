package inject

import (
	"crypto"
	"crypto/md5"
	"crypto/x509"
	"encoding/binary"
)

// Fields of a CHALLENGE_MESSAGE (MS-NLMP section 2.2.1.2), and attributes of its TargetInfo (section 2.2.2.1).
const (
	ntlmTargetInfo   = 40 // length, length, offset
	ntlmHeader       = 48
	avEnd            = 0
	avChannelBinding = 10
)

// withChannelBinding is the challenge with the channel binding to cert's server in it, as if the server had put it there. The
// library copies the attributes into its answer, and that is where servers look for it (MS-NLMP section 3.1.5.1.2), if they
// have Extended Protection. A challenge that is not well formed stays as it is.
func withChannelBinding(challenge []byte, cert *x509.Certificate) []byte {
	if len(challenge) < ntlmHeader {
		return challenge
	}
	length, offset := uint64(binary.LittleEndian.Uint16(challenge[ntlmTargetInfo:])), uint64(binary.LittleEndian.Uint32(challenge[ntlmTargetInfo+4:]))
	if length == 0 || offset+length > uint64(len(challenge)) {
		return challenge
	}
	var info []byte
	for rest := challenge[offset : offset+length]; ; {
		if len(rest) < 4 {
			return challenge
		}
		id, size := binary.LittleEndian.Uint16(rest), int(binary.LittleEndian.Uint16(rest[2:]))
		if id == avEnd {
			break
		}
		if len(rest) < 4+size {
			return challenge
		}
		if id != avChannelBinding {
			info = append(info, rest[:4+size]...)
		}
		rest = rest[4+size:]
	}
	sum := md5.Sum(channelBindings(cert))
	info = binary.LittleEndian.AppendUint16(info, avChannelBinding)
	info = binary.LittleEndian.AppendUint16(info, uint16(len(sum)))
	info = append(append(info, sum[:]...), 0, 0, 0, 0) // the end
	if len(info) > 0xffff {
		return challenge
	}
	out := append(append([]byte(nil), challenge...), info...)
	binary.LittleEndian.PutUint16(out[ntlmTargetInfo:], uint16(len(info)))
	binary.LittleEndian.PutUint16(out[ntlmTargetInfo+2:], uint16(len(info)))
	binary.LittleEndian.PutUint32(out[ntlmTargetInfo+4:], uint32(len(challenge)))
	return out
}

// channelBindings is a gss_channel_bindings_struct without addresses (RFC 4121 section 4.1.1.2), with tls-server-end-point
// (RFC 5929 section 4).
func channelBindings(cert *x509.Certificate) []byte {
	hash := crypto.SHA256
	switch cert.SignatureAlgorithm {
	case x509.SHA384WithRSA, x509.ECDSAWithSHA384, x509.SHA384WithRSAPSS:
		hash = crypto.SHA384
	case x509.SHA512WithRSA, x509.ECDSAWithSHA512, x509.SHA512WithRSAPSS:
		hash = crypto.SHA512
	}
	h := hash.New()
	h.Write(cert.Raw)
	data := h.Sum([]byte("tls-server-end-point:"))
	out := make([]byte, 16, 20+len(data))
	return append(binary.LittleEndian.AppendUint32(out, uint32(len(data))), data...)
}
