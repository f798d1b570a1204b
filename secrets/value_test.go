package secrets

import (
	"bytes"
	"encoding/gob"
	"encoding/json"
	"encoding/xml"
	"errors"
	"fmt"
	"io"
	"log"
	"log/slog"
	"strings"
	"testing"
	"text/template"

	"gopkg.in/yaml.v3"
)

const topSecret = "s3cr3t-xyzzy"

type holder struct {
	Shown  Value
	hidden Value
	Many   []Value
	At     *Value
	ByName map[string]Value
	Any    any
}

func newHolder() holder {
	v := NewValue(topSecret)
	return holder{Shown: v, hidden: v, Many: []Value{v}, At: &v, ByName: map[string]Value{"k": v}, Any: v}
}

func TestValueNeverPrints(t *testing.T) {
	t.Parallel()
	v := NewValue(topSecret)
	h := newHolder()
	things := map[string]any{
		"value": v, "pointer": &v, "holder": h, "pointer to holder": &h, "slice": []Value{v}, "array": [1]Value{v},
		"slice of any": []any{v, &v}, "map": map[string]Value{"k": v}, "nested": struct{ inner *holder }{&h},
		"error": &Error{Op: "resolve", Ref: "keyring:x", Kind: ErrNotFound},
	}
	verbs := []string{"%v", "%+v", "%#v", "%s", "%q", "%x", "%X", "% x", "%d", "%t", "%p", "%T", "%c", "%e", "%10.3s", "%U", "%b", "%o", "%w"}
	for name, thing := range things {
		for _, verb := range verbs {
			mustHide(t, name+" "+verb, fmt.Sprintf(verb, thing))
		}
		mustHide(t, name+" Sprint", fmt.Sprint(thing))
		mustHide(t, name+" panic", panicText(thing))
		mustHide(t, name+" wrapped", fmt.Errorf("doing: %v: %w", thing, io.EOF).Error())
		mustHide(t, name+" joined", errors.Join(fmt.Errorf("%+v", thing), io.EOF).Error())
	}
}

func panicText(v any) (s string) {
	defer func() { s = fmt.Sprintf("%v %+v", recover(), v) }()
	panic(v)
}

func TestValueNeverEncodes(t *testing.T) {
	t.Parallel()
	h := newHolder()
	encoders := map[string]func(w io.Writer) error{
		"json":     func(w io.Writer) error { return json.NewEncoder(w).Encode(h) },
		"json key": func(w io.Writer) error { return json.NewEncoder(w).Encode(map[string]any{"a": h.Shown, "b": &h}) },
		"yaml":     func(w io.Writer) error { return yaml.NewEncoder(w).Encode(h) },
		"xml": func(w io.Writer) error {
			type element struct {
				A Value
				B Value `xml:"b,attr"`
			}
			return xml.NewEncoder(w).Encode(element{h.Shown, h.Shown})
		},
		"slog text": func(w io.Writer) error {
			slog.New(slog.NewTextHandler(w, nil)).Info("m", "v", h.Shown, "p", h.At, "h", h, slog.Group("g", "v", h.Shown))
			return nil
		},
		"slog json": func(w io.Writer) error {
			slog.New(slog.NewJSONHandler(w, nil)).Info("m", "v", h.Shown, "p", h.At, "h", h, slog.Group("g", "v", h.Shown))
			return nil
		},
		"log": func(w io.Writer) error { log.New(w, "", 0).Printf("%v %+v", h, &h); return nil },
		"template": func(w io.Writer) error {
			return template.Must(template.New("").Parse("{{.Shown}} {{.}} {{printf \"%q\" .Shown}} {{.At}}")).Execute(w, h)
		},
	}
	for name, encode := range encoders {
		var b bytes.Buffer
		if err := encode(&b); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		mustHide(t, name, b.String())
		if !strings.Contains(b.String(), redacted) {
			t.Errorf("%s: wrote %q, which does not say that something is hidden", name, b.String())
		}
	}
	for name, v := range map[string]any{"value": h.Shown, "holder": struct{ V Value }{h.Shown}} {
		var b bytes.Buffer
		if err := gob.NewEncoder(&b).Encode(v); err == nil {
			t.Errorf("gob %s: encoded without an error", name)
		}
		mustHide(t, "gob "+name, b.String())
	}
}

func mustHide(t *testing.T, what, got string) {
	t.Helper()
	for _, form := range []string{topSecret, fmt.Sprintf("%x", topSecret), fmt.Sprintf("%X", topSecret), fmt.Sprintf("% x", topSecret),
		fmt.Sprint([]byte(topSecret)), topSecret[:6]} {
		if strings.Contains(got, form) {
			t.Errorf("%s: printed the secret: %q", what, got)
		}
	}
}

func TestValue(t *testing.T) {
	t.Parallel()
	var zero Value
	if !zero.IsZero() || zero.Reveal() != "" || !zero.Equal(NewValue("")) {
		t.Error("the zero Value is not the empty secret")
	}
	a, b, c := NewValue("x"), NewValue("x"), NewValue("y")
	if !a.Equal(b) || a.Equal(c) || a.Equal(zero) || a.IsZero() || a.Reveal() != "x" {
		t.Error("Equal, IsZero or Reveal is wrong")
	}
}

func TestCheckLine(t *testing.T) {
	t.Parallel()
	for s, ok := range map[string]bool{"abc": true, "a b\tc": true, "": false, "a\r\nX: y": false, "a\nb": false, "a\rb": false, "a\x00": false, "abc\n": false} {
		err := NewValue(s).CheckLine()
		if (err == nil) != ok {
			t.Errorf("CheckLine(%q) = %v, want ok %v", s, err, ok)
		}
		if err != nil && (!errors.Is(err, ErrInvalid) || strings.Contains(err.Error(), "X: y")) {
			t.Errorf("CheckLine(%q) = %v", s, err)
		}
	}
}

func TestCheckStorable(t *testing.T) {
	t.Parallel()
	key := "-----BEGIN PRIVATE KEY-----\nMC4CAQAwBQYDK2VwBCIEIA==\n-----END PRIVATE KEY-----\n"
	tests := []struct {
		name, value string
		want        error
	}{
		{"token", "ghp_abc", nil},
		{"umlaut", "pässwört", nil},
		{"PEM", key, nil},
		{"JSON", "{\n \"a\": 1\n}\n", nil},
		{"JSON list", "[\n1]", nil},
		{"empty", "", ErrInvalid},
		{"line feed", "a\nb", ErrInvalid},
		{"carriage return", "a\rb", ErrInvalid},
		{"NUL", "a\x00b", ErrInvalid},
		{"NUL in JSON", "{}\x00", ErrInvalid},
		{"not UTF-8", "a\xff", ErrInvalid},
		{"text before PEM", "x\n" + key, ErrInvalid},
		{"broken JSON", "{\n", ErrInvalid},
		{"too large", strings.Repeat("a", maxValue+1), ErrTooLarge},
		{"just fits", strings.Repeat("a", maxValue), nil},
	}
	for _, test := range tests {
		if err := CheckStorable(NewValue(test.value)); !errors.Is(err, test.want) || (err == nil) != (test.want == nil) {
			t.Errorf("%s: got %v, want %v", test.name, err, test.want)
		}
	}
}
