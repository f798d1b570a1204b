package proxy

import (
	"io"
	"net/http"
	"slices"

	"github.com/credproxy/credproxy/internal/mask"
	"github.com/credproxy/credproxy/rules"
	"github.com/credproxy/credproxy/secrets"
	lru "github.com/hashicorp/golang-lru/v2"
)

// maxMasks bounds the masks that are kept, by rule.
const maxMasks = 256

// masks are the mask.Sets of the last request of each rule: most use the same secrets each time.
type masks struct{ kept *lru.Cache[string, *ruleMask] }

type ruleMask struct {
	values []secrets.Value
	set    *mask.Set
}

func newMasks() masks {
	// The size is a constant above zero, so that there is no error.
	kept, _ := lru.New[string, *ruleMask](maxMasks)
	return masks{kept}
}

// of returns what takes values out of an answer.
func (m masks) of(rule string, values []secrets.Value) *mask.Set {
	if last, ok := m.kept.Get(rule); ok && slices.EqualFunc(last.values, values, secrets.Value.Equal) {
		return last.set
	}
	texts := make([]string, len(values))
	for i, v := range values {
		texts[i] = v.Reveal()
	}
	set := mask.New(texts...)
	m.kept.Add(rule, &ruleMask{values, set})
	return set
}

// prepareScrub has the upstream answer in a way that can be looked into.
func prepareScrub(out *http.Request, d rules.Decision) {
	if !d.Scrub || len(d.Inject) == 0 {
		return
	}
	acceptKnownCodings(out.Header)
	delete(out.Header, "Sec-Websocket-Extensions") // what there is compresses (RFC 7692)
}

// hide has what was used taken out of all answers from now on.
func (x *exchange) hide(d rules.Decision, used []usage) {
	if !d.Scrub {
		return
	}
	for _, u := range used {
		x.used = append(x.used, u.values...)
	}
	if len(x.used) > 0 {
		x.mask = x.server.masks.of(d.Rule, x.used)
	}
}

// scrub takes what was used out of resp.
func (x *exchange) scrub(resp *http.Response) error {
	if x.mask == nil {
		return nil
	}
	scrubHeader(x.mask, resp.Header)
	if resp.Request.Method == http.MethodHead || resp.StatusCode == http.StatusNoContent || resp.StatusCode == http.StatusNotModified {
		return nil
	}
	if x.upstream != nil {
		x.upstream = &scrubbedConn{x.upstream, x.mask.Reader(x.upstream)}
		return nil
	}
	plain, err := decoded(resp, x.target.host)
	if err != nil {
		return err
	}
	resp.Body = &scrubbedBody{Reader: x.mask.Reader(plain), plain: plain, body: resp.Body, resp: resp, set: x.mask}
	return nil
}

func scrubHeader(set *mask.Set, h http.Header) {
	for _, values := range h {
		for i, v := range values {
			values[i] = set.Text(v)
		}
	}
}

// A scrubbedBody is an answer's body without what was used, and without its codings.
type scrubbedBody struct {
	*mask.Reader
	plain io.Reader     // decoded
	body  io.ReadCloser // as it comes
	resp  *http.Response
	set   *mask.Set
}

func (b *scrubbedBody) Read(p []byte) (int, error) {
	n, err := b.Reader.Read(p)
	if err == io.EOF {
		scrubHeader(b.set, b.resp.Trailer)
	}
	return n, err
}

func (b *scrubbedBody) Close() error {
	err := b.body.Close()
	if c, ok := b.plain.(closer); ok {
		c.release()
	}
	return err
}

// A scrubbedConn is the upstream's side after a 101.
type scrubbedConn struct {
	io.ReadWriteCloser
	masked *mask.Reader
}

func (c *scrubbedConn) Read(p []byte) (int, error) { return c.masked.Read(p) }
