package mask_test

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"html"
	"io"
	"math/rand/v2"
	"net/url"
	"slices"
	"strings"
	"testing"
	"testing/iotest"

	"github.com/credproxy/credproxy/internal/mask"
)

const odd = `s3cr+t/"k\y" <&'%ü~`

func TestText(t *testing.T) {
	t.Parallel()
	quoted, err := json.Marshal(odd)
	if err != nil {
		t.Fatal(err)
	}
	tests := []struct{ name, secret, text, want string }{
		{"as it is", "hunter2", "a hunter2 b", "a ******* b"},
		{"at both ends", "hunter2", "hunter2hunter2", "**************"},
		{"overlapping itself", "abab", "xabababx", "x******x"},
		{"nearly", "hunter2", "hunter1 hunte", "hunter1 hunte"},
		{"too short", "abc", "abc", "abc"},
		{"the shortest", "abcd", "xabcdx", "x****x"},
		{"query", odd, "q=" + url.QueryEscape(odd) + "&", "q=" + stars(url.QueryEscape(odd)) + "&"},
		{"query in lower case", odd, strings.ToLower(url.QueryEscape(odd)), stars(url.QueryEscape(odd))},
		{"path", odd, "/" + url.PathEscape(odd) + "/", "/" + stars(url.PathEscape(odd)) + "/"},
		{"JSON", odd, string(quoted), `"` + stars(string(quoted[2:])) + `"`},
		{"JSON with escaped slashes", odd, strings.ReplaceAll(string(quoted), "/", `\/`), `"` + stars(string(quoted[2:])) + `*"`},
		{"HTML", odd, "<b>" + html.EscapeString(odd) + "</b>", "<b>" + stars(html.EscapeString(odd)) + "</b>"},
	}
	for _, tt := range tests {
		if got := mask.New(tt.secret).Text(tt.text); got != tt.want {
			t.Errorf("%s: %q, want %q", tt.name, got, tt.want)
		}
	}
}

func stars(s string) string { return strings.Repeat("*", len(s)) }

// Whatever stands around a secret, at most two of its bytes at each end can be told from base64 around it.
func TestBase64(t *testing.T) {
	t.Parallel()
	const secret = "0123456789abcdef?>?>"
	set := mask.New(secret)
	for _, e := range []*base64.Encoding{base64.StdEncoding, base64.URLEncoding, base64.RawStdEncoding, base64.RawURLEncoding} {
		for before := range 4 {
			for after := range 4 {
				text := e.EncodeToString([]byte(strings.Repeat("x", before) + secret + strings.Repeat("y", after)))
				got := set.Text(text)
				plain := strings.Count(got, "*")
				if shown := len(text) - plain; shown > (before+after+4)*4/3+4 || plain == 0 {
					t.Errorf("%d before, %d after: %s became %s", before, after, text, got)
				}
			}
		}
	}
}

func TestSetDoesNotPrintItself(t *testing.T) {
	t.Parallel()
	set := mask.New("hunter2")
	for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%q", "%x", "%d"} {
		if got := fmt.Sprintf(verb, set) + fmt.Sprintf(verb, *set); strings.Contains(got, "hunter") || strings.Contains(got, "104") {
			t.Errorf("%s prints %.80s", verb, got)
		}
	}
}

// reference masks the slow and sure way.
func reference(text string, secrets []string) string {
	out := []byte(text)
	for _, s := range secrets {
		for i := 0; i+len(s) <= len(text); i++ {
			if text[i:i+len(s)] == s {
				copy(out[i:], stars(s))
			}
		}
	}
	return string(out)
}

// masked reports whether got is want, but for beginnings of secrets, too short to count, where the source was split.
func masked(text, want, got string, secrets []string) bool {
	if len(got) != len(want) {
		return false
	}
	for i := range len(got) {
		if got[i] == want[i] {
			continue
		}
		begins := slices.ContainsFunc(secrets, func(s string) bool {
			for j := max(0, i-mask.MinLength+2); j <= i; j++ {
				if strings.HasPrefix(text[j:], s) {
					return true
				}
			}
			return false
		})
		if got[i] != text[i] || !begins {
			return false
		}
	}
	return true
}

// pieces reads text in random pieces, at times none at all.
type pieces struct {
	text []byte
	r    *rand.Rand
	end  error
}

func (p *pieces) Read(b []byte) (int, error) {
	n := copy(b, p.text[:min(len(p.text), p.r.IntN(9))])
	p.text = p.text[n:]
	if len(p.text) == 0 && p.r.IntN(2) == 0 {
		return n, p.end
	}
	return n, nil
}

// check reads text through a Reader, with random pieces on both sides, and compares with the reference.
func check(t *testing.T, text string, secrets []string, seed uint64) {
	t.Helper()
	r := rand.New(rand.NewPCG(seed, 1))
	set := mask.New(secrets...)
	end := io.EOF
	if seed%3 == 0 {
		end = errors.New("broke off")
	}
	reader := set.Reader(&pieces{[]byte(text), r, end})
	var got bytes.Buffer
	for {
		p := make([]byte, r.IntN(10000))
		n, err := reader.Read(p)
		got.Write(p[:n])
		if err != nil {
			if !errors.Is(err, end) {
				t.Fatalf("ends with %v, want %v", err, end)
			}
			break
		}
	}
	if want := reference(text, secrets); !masked(text, want, got.String(), secrets) {
		t.Fatalf("seed %d, secrets %q:\n got %q\nwant %q", seed, secrets, got.String(), want)
	}
}

// The alphabet is small, so that texts overlap and nearly match all the time.
func TestReaderAgainstReference(t *testing.T) {
	t.Parallel()
	word := func(r *rand.Rand, n int, letters string) string {
		b := make([]byte, n)
		for i := range b {
			b[i] = letters[r.IntN(len(letters))]
		}
		return string(b)
	}
	for seed := range uint64(3000) {
		r := rand.New(rand.NewPCG(seed, 0))
		letters := "abcdefgh"[:1+r.IntN(8)]
		var secrets []string
		for range 1 + r.IntN(4) {
			secrets = append(secrets, word(r, mask.MinLength+r.IntN(12), letters))
		}
		text := ""
		for range r.IntN(20) {
			text += word(r, r.IntN(30), letters) + secrets[r.IntN(len(secrets))]
		}
		// Of these secrets, the base64 of some could stand in the text too, and the reference does not know.
		if strings.ContainsAny(text, "ABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789") {
			t.Fatal("the alphabet must have no letters of their base64")
		}
		check(t, text, secrets, seed)
	}
}

func FuzzReader(f *testing.F) {
	f.Add("a hunter2 b", "hunter2", uint64(1))
	f.Add("aaaaaaaaaaaaaaab", "aaaab", uint64(2))
	f.Fuzz(func(t *testing.T, text, secret string, seed uint64) {
		if len(secret) < mask.MinLength || len(text) > 1<<12 || len(secret) > 1<<10 {
			t.Skip()
		}
		set := mask.New(secret)
		whole := []byte(text)
		out, err := io.ReadAll(set.Reader(bytes.NewReader(whole)))
		if err != nil {
			t.Fatal(err)
		}
		if string(out) != set.Text(text) || strings.Contains(string(out), secret) && !strings.Contains(secret, "*") {
			t.Fatalf("%q without %q is %q, or %q", text, secret, out, set.Text(text))
		}
		split, err := io.ReadAll(set.Reader(&pieces{whole, rand.New(rand.NewPCG(seed, 1)), io.EOF}))
		if err != nil || string(split) != string(out) && !masked(text, string(out), string(split), mask.Forms(secret)) {
			t.Fatalf("in pieces it is %q, %v; want %q", split, err, out)
		}
	})
}

// What cannot be the beginning of a secret comes at once.
func TestReaderHoldsNothingElseBack(t *testing.T) {
	t.Parallel()
	events := []string{"data: one\n\n", "data: hu", "nter\n\n", "data: hunter", "2\n\n", "data: hun", "ter2\n\n"}
	want := []string{"data: one\n\n", "data: hu", "nter\n\n", "data: ", "*******\n\n", "data: hun", "****\n\n"}
	r, w := io.Pipe()
	reader := mask.New("hunter2").Reader(r)
	buf := make([]byte, 8<<10)
	go func() {
		for _, e := range events {
			_, _ = io.WriteString(w, e) // returns when it was read
		}
		_ = w.Close()
	}()
	for i := range want {
		n, err := reader.Read(buf)
		if err != nil || string(buf[:n]) != want[i] {
			t.Errorf("read %d: %q, %v; want %q", i, buf[:n], err, want[i])
		}
	}
	if n, err := reader.Read(buf); n != 0 || err != io.EOF {
		t.Errorf("at the end: %d, %v", n, err)
	}
}

func TestNilSet(t *testing.T) {
	t.Parallel()
	set := mask.New("abc", "")
	if set != nil {
		t.Fatal("a set of nothing is not nil")
	}
	out, err := io.ReadAll(set.Reader(iotest.OneByteReader(strings.NewReader("abc"))))
	if string(out) != "abc" || err != nil || set.Text("abc") != "abc" {
		t.Errorf("got %q, %v", out, err)
	}
}

func BenchmarkReader(b *testing.B) {
	token := "ghp_" + strings.Repeat("Zk3jX9", 6)
	var line bytes.Buffer
	for i := range 20000 {
		fmt.Fprintf(&line, `{"id":%d,"name":"item %d","tags":["a","b"],"sha":"%x","url":"https://api.example.com/items/%d"},`+"\n", i, i, i*7919, i)
	}
	for _, bb := range []struct {
		name string
		set  *mask.Set
	}{{"plain", nil}, {"17 letters", mask.New("CANARY-9f3c1b7e5d")}, {"token", mask.New(token)}, {"basic", mask.New("pass word/1234", base64.StdEncoding.EncodeToString([]byte("ada:pass word/1234")))}, {"jwt", mask.New(strings.Repeat("eyJhbGciOi", 100))}} {
		b.Run(bb.name, func(b *testing.B) {
			b.SetBytes(int64(line.Len()))
			b.ReportAllocs()
			buf := make([]byte, 32<<10)
			for b.Loop() {
				if _, err := io.CopyBuffer(onlyWriter{io.Discard}, bb.set.Reader(onlyReader{bytes.NewReader(line.Bytes())}), buf); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

func BenchmarkNew(b *testing.B) {
	token := "ghp_" + strings.Repeat("Zk3jX9", 6)
	b.ReportAllocs()
	for b.Loop() {
		_ = mask.New(token)
	}
}

type onlyWriter struct{ io.Writer }
type onlyReader struct{ io.Reader }
