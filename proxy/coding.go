package proxy

import (
	"bufio"
	"compress/flate"
	"compress/gzip"
	"compress/zlib"
	"io"
	"net/http"
	"net/textproto"
	"slices"
	"strings"

	"github.com/andybalholm/brotli"
	"github.com/klauspost/compress/zstd"
)

// maxWindow bounds what a decoder remembers of what it has decoded (RFC 9659 section 3).
const maxWindow = 8 << 20

// maxCodings bounds how often one body is coded.
const maxCodings = 3

// codings are the content codings (RFC 9110 section 8.4.1) that can be looked into.
var codings = map[string]func(io.Reader) (io.Reader, error){
	"gzip":    func(r io.Reader) (io.Reader, error) { return gzip.NewReader(r) },
	"x-gzip":  func(r io.Reader) (io.Reader, error) { return gzip.NewReader(r) },
	"deflate": inflate,
	"br":      func(r io.Reader) (io.Reader, error) { return brotli.NewReader(r), nil },
	"zstd":    unzstd,
}

// inflate reads deflate as RFC 9110 has it, within zlib, and as some servers send it, without.
func inflate(r io.Reader) (io.Reader, error) {
	b := bufio.NewReader(r)
	head, err := b.Peek(2)
	if err != nil && err != io.EOF {
		return nil, err
	}
	if len(head) == 2 && head[0]&0x0f == 8 && (int(head[0])<<8|int(head[1]))%31 == 0 {
		return zlib.NewReader(b)
	}
	return flate.NewReader(b), nil
}

// A closer is a decoder that keeps something until its release.
type closer interface{ release() }

type zstdReader struct{ *zstd.Decoder }

func (z zstdReader) release() { z.Close() }

func unzstd(r io.Reader) (io.Reader, error) {
	d, err := zstd.NewReader(r, zstd.WithDecoderConcurrency(1), zstd.WithDecoderLowmem(true), zstd.WithDecoderMaxWindow(maxWindow))
	if err != nil {
		return nil, err
	}
	return zstdReader{d}, nil
}

// acceptKnownCodings takes out of h, a request's, the codings that cannot be looked into. A part of a body (Range) must
// come without any.
func acceptKnownCodings(h http.Header) {
	if h["Range"] != nil {
		h["Accept-Encoding"] = []string{"identity"}
		return
	}
	lines := h["Accept-Encoding"]
	if lines == nil {
		return
	}
	var kept []string
	for _, line := range lines {
		for item := range strings.SplitSeq(line, ",") {
			name, _, _ := strings.Cut(item, ";")
			if name = strings.ToLower(textproto.TrimString(name)); name == "identity" || codings[name] != nil {
				kept = append(kept, textproto.TrimString(item))
			}
		}
	}
	if kept == nil {
		kept = []string{"identity"}
	}
	h["Accept-Encoding"] = []string{strings.Join(kept, ", ")}
}

// noCodings change nothing. S3 servers store aws-chunked with what was uploaded so, and send it as it is.
var noCodings = []string{"", "identity", "aws-chunked"}

// decoded is resp's body without its codings. resp's header says so afterwards.
func decoded(resp *http.Response, host string) (io.Reader, error) {
	var names []string
	for _, line := range resp.Header["Content-Encoding"] {
		for item := range strings.SplitSeq(line, ",") {
			if name := strings.ToLower(textproto.TrimString(item)); !slices.Contains(noCodings, name) {
				names = append(names, name)
			}
		}
	}
	if len(names) == 0 {
		return resp.Body, nil
	}
	known := len(names) <= maxCodings && resp.StatusCode != http.StatusPartialContent
	for _, name := range names {
		known = known && codings[name] != nil
	}
	if !known {
		return nil, faultf(upstreamProtocol, "%s sent a compressed answer that cannot be searched for the credential, although it was not asked for one", host).
			advise("set scrub: false in the rule to let it through unsearched")
	}
	r := &decoder{names: names, src: bufio.NewReader(resp.Body)}
	for _, name := range []string{"Content-Encoding", "Content-Length", "Content-Md5", "Content-Digest", "Repr-Digest", "Digest"} {
		delete(resp.Header, name)
	}
	resp.ContentLength = -1
	return r, nil
}

// A decoder opens its body when it is first read: that waits for the body's first bytes.
type decoder struct {
	names []string // in the order in which they were applied
	src   *bufio.Reader
	open  []io.Reader
	err   error
}

func (d *decoder) Read(p []byte) (int, error) {
	if d.open == nil && d.err == nil {
		d.begin()
	}
	if d.err != nil {
		return 0, d.err
	}
	n, err := d.open[len(d.open)-1].Read(p)
	if err == io.EOF {
		err = d.end()
	}
	d.err = err
	return n, err
}

func (d *decoder) begin() {
	if _, d.err = d.src.Peek(1); d.err != nil {
		return // an empty body is often said to be compressed
	}
	r := io.Reader(d.src)
	for i := len(d.names) - 1; i >= 0; i-- {
		if r, d.err = codings[d.names[i]](r); d.err != nil {
			if d.err == io.EOF {
				d.err = io.ErrUnexpectedEOF
			}
			return
		}
		d.open = append(d.open, r)
	}
}

// maxRest bounds what a server may send behind the end of what is compressed.
const maxRest = 64 << 10

// end reads the body itself to its end, where its trailers are.
func (d *decoder) end() error {
	n, err := io.Copy(io.Discard, io.LimitReader(d.src, maxRest))
	if err == nil && n == maxRest {
		err = io.ErrUnexpectedEOF
	}
	if err == nil {
		err = io.EOF
	}
	return err
}

func (d *decoder) release() {
	for _, r := range d.open {
		if c, ok := r.(closer); ok {
			c.release()
		}
	}
}
