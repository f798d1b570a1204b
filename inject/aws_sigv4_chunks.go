package inject

import (
	"bufio"
	"bytes"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"hash"
	"io"
	"strconv"
	"strings"
)

const (
	chunkMark   = ";chunk-signature="
	trailerMark = "x-amz-trailer-signature:"

	signatureSize = 2 * sha256.Size // in hex
	maxTrailers   = 8 << 10         // of all lines together
)

// chunkKey is what chunks are signed with: each signature covers the one before, the first that of the request.
type chunkKey struct {
	key               []byte
	date, scope, seed string
}

// A chunkSigner is a body in aws-chunked coding whose signatures are replaced. They have a fixed length, so that the
// body's length stays. It holds one chunk at a time, because the signature comes before the data.
// https://docs.aws.amazon.com/AmazonS3/latest/API/sigv4-streaming.html
type chunkSigner struct {
	src      io.ReadCloser
	r        *bufio.Reader
	mac      hash.Hash
	suffix   string // date and scope, as they stand in each string to sign
	last     string // signature
	trailers bool

	out  []byte // is to be read, the rest of buf
	buf  bytes.Buffer
	done bool  // the last chunk is in buf
	err  error // once out is read
}

func newChunkSigner(src io.ReadCloser, k chunkKey, trailers bool) *chunkSigner {
	return &chunkSigner{
		src: src, r: bufio.NewReader(src), mac: hmac.New(sha256.New, k.key), suffix: "\n" + k.date + "\n" + k.scope + "\n",
		last: k.seed, trailers: trailers,
	}
}

// Close closes the client's body.
func (s *chunkSigner) Close() error { return s.src.Close() }

// Read implements io.Reader. What is not in the coding breaks the body off: it is no end.
func (s *chunkSigner) Read(p []byte) (int, error) {
	for len(s.out) == 0 && s.err == nil {
		s.next()
	}
	if len(s.out) == 0 {
		return 0, s.err
	}
	n := copy(p, s.out)
	s.out = s.out[n:]
	return n, nil
}

// errChunks is what clients get if they are still there.
func errChunks(why string) error {
	return &misfit{"bad_body", "the body's signed chunks are malformed: " + why, "have the program sign the body in another way"}
}

// next puts the next chunk into out, or what ends the body into err. The last chunk is held back until it is sure that
// nothing comes behind it.
func (s *chunkSigner) next() {
	if s.done {
		s.err = io.EOF
		return
	}
	s.buf.Reset()
	err := s.chunk()
	if err == nil && s.done {
		if _, more := s.r.ReadByte(); more == nil {
			err = errChunks("something comes after the last one")
		} else if more != io.EOF {
			err = more
		}
	}
	if err == io.EOF || err == io.ErrUnexpectedEOF {
		err = errChunks("they break off")
	}
	if err != nil {
		s.err = err
		return
	}
	s.out = s.buf.Bytes()
}

// chunk reads one chunk into buf, the last one with what follows it, and signs it.
func (s *chunkSigner) chunk() error {
	size, err := s.head()
	if err != nil {
		return err
	}
	at := s.buf.Len() - signatureSize - len("\r\n")
	begin := s.buf.Len()
	if _, err := io.CopyN(&s.buf, s.r, size); err != nil {
		return err
	}
	sum := sha256.Sum256(s.buf.Bytes()[begin:])
	s.sign(at, "AWS4-HMAC-SHA256-PAYLOAD", emptyHash+"\n"+hex.EncodeToString(sum[:]))
	if s.done = size == 0; s.done && s.trailers {
		return s.trailer()
	}
	return s.lineEnd()
}

// head reads the line before a chunk: its size in hex and its signature.
func (s *chunkSigner) head() (size int64, err error) {
	line, err := s.line()
	if err != nil {
		return 0, err
	}
	digits, signature, ok := strings.Cut(strings.TrimSuffix(line, "\r\n"), chunkMark)
	number, err := strconv.ParseUint(digits, 16, 32)
	switch {
	case !ok || err != nil || len(digits) > 8 || !isSignature(signature) || !strings.HasSuffix(line, "\r\n"):
		return 0, errChunks("want a size and a signature before each")
	case number > maxSigned:
		return 0, errChunks("one is larger than 8 MiB")
	}
	return int64(number), nil
}

// line reads a line with its end into buf.
func (s *chunkSigner) line() (string, error) {
	line, err := s.r.ReadSlice('\n') // up to the size of r's buffer
	if errors.Is(err, bufio.ErrBufferFull) {
		return "", errChunks("a line is too long")
	}
	s.buf.Write(line)
	return string(line), err
}

func (s *chunkSigner) lineEnd() error {
	if line, err := s.line(); err != nil || line != "\r\n" {
		if err == nil {
			err = errChunks("one is longer than its size")
		}
		return err
	}
	return nil
}

// trailer reads the fields after the last chunk, of which the last one is their signature. Some clients end a field
// with LF and put CR LF before the signature; it stays like that.
func (s *chunkSigner) trailer() error {
	begin := s.buf.Len()
	var fields []byte
	for s.buf.Len()-begin <= maxTrailers {
		line, err := s.line()
		if err != nil {
			return err
		}
		text := strings.TrimRight(line, "\r\n")
		if len(text) >= len(trailerMark) && strings.EqualFold(text[:len(trailerMark)], trailerMark) {
			signature := strings.TrimLeft(text[len(trailerMark):], " ")
			if !isSignature(signature) || !strings.HasSuffix(line, "\r\n") {
				return errChunks("the trailers' signature is none")
			}
			sum := sha256.Sum256(fields)
			s.sign(s.buf.Len()-signatureSize-len("\r\n"), "AWS4-HMAC-SHA256-TRAILER", hex.EncodeToString(sum[:]))
			return s.lineEnd()
		}
		if text == "" {
			continue
		}
		name, value, ok := strings.Cut(text, ":")
		if !ok || !isToken(name) {
			return errChunks("a trailer is no field")
		}
		fields = append(append(append(append(fields, strings.ToLower(name)...), ':'), strings.Trim(value, " \t")...), '\n')
	}
	return errChunks("the trailers are too long")
}

// sign writes the next signature over the one at at in buf.
func (s *chunkSigner) sign(at int, algorithm, rest string) {
	s.mac.Reset()
	for _, part := range []string{algorithm, s.suffix, s.last, "\n", rest} {
		_, _ = io.WriteString(s.mac, part) // a hash takes everything
	}
	s.last = hex.EncodeToString(s.mac.Sum(nil))
	copy(s.buf.Bytes()[at:], s.last)
}

func isSignature(s string) bool {
	for i := range len(s) {
		if !isHex(s[i]) {
			return false
		}
	}
	return len(s) == signatureSize
}

// emptyHash is the SHA-256 of nothing.
const emptyHash = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
