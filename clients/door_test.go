package clients

import (
	"context"
	"encoding/base64"
	"fmt"
	"net/http"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

func basic(s string) string { return "Basic " + base64.StdEncoding.EncodeToString([]byte(s)) }

func asking(fields ...string) *http.Request {
	r := &http.Request{Header: http.Header{}, RemoteAddr: "127.0.0.1:4000"}
	for _, f := range fields {
		r.Header.Add("Proxy-Authorization", f)
	}
	return r
}

func TestAsk(t *testing.T) {
	t.Parallel()
	s := Open(t.TempDir())
	token, err := s.Add("ci", false)
	if err != nil {
		t.Fatal(err)
	}
	other, err := s.Add("other", false)
	if err != nil {
		t.Fatal(err)
	}
	d := &Door{Tokens: s.Check}
	right := basic("ci:" + token)
	for _, test := range []struct {
		name   string
		fields []string
		want   bool
	}{
		{"right", []string{right}, true},
		{"scheme in small letters", []string{strings.Replace(right, "Basic", "basic", 1)}, true},
		{"more spaces", []string{strings.Replace(right, " ", "   ", 1)}, true},
		{"nothing", nil, false},
		{"empty", []string{""}, false},
		{"empty credentials", []string{basic("")}, false},
		{"empty name and token", []string{basic(":")}, false},
		{"no token", []string{basic("ci:")}, false},
		{"no colon", []string{basic("ci")}, false},
		{"part of the token", []string{basic("ci:" + token[:42])}, false},
		{"more than the token", []string{basic("ci:" + token + "A")}, false},
		{"a newline behind", []string{basic("ci:" + token + "\n")}, false},
		{"another client's token", []string{basic("ci:" + other)}, false},
		{"another name", []string{basic("co:" + token)}, false},
		{"a path", []string{basic("../clients/ci:" + token)}, false},
		{"a name in capitals", []string{basic("CI:" + token)}, false},
		{"a NUL", []string{basic("ci\x00:" + token)}, false},
		{"a long name", []string{basic(strings.Repeat("c", 600) + ":" + token)}, false},
		{"a very long field", []string{"Basic " + strings.Repeat("A", 1<<20)}, false},
		{"the local name, without a local token", []string{basic("local:")}, false},
		{"the stored hash", []string{basic("ci:" + storedHash(t, s, "ci"))}, false},
		{"bearer", []string{"Bearer " + token}, false},
		{"not base64", []string{"Basic ci:" + token}, false},
		{"twice", []string{right, right}, false},
		{"a wrong one first", []string{basic("ci:x"), right}, false},
		{"a wrong one behind", []string{right, basic("ci:x")}, false},
		{"two in one", []string{right + ", " + basic("other:"+other)}, false},
	} {
		if name, ok := d.Ask(asking(test.fields...)); ok != test.want || ok && name != "ci" {
			t.Errorf("%s: got %q, %v, want %v", test.name, name, ok, test.want)
		}
	}
	if _, ok := new(Door).Ask(asking(right)); ok {
		t.Error("the zero Door lets somebody in")
	}
}

func storedHash(t *testing.T, s *Store, name string) string {
	t.Helper()
	got, _, err := s.read(name)
	if err != nil {
		t.Fatal(err)
	}
	return got.Hash
}

// A flood of wrong tokens is slowed down and does not fill the audit log. It hurts nobody else.
func TestGuessing(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		d := &Door{Tokens: One("ci", "right"), Detail: "none", Hint: "add one"}
		guess := func(from string) (e *Refusal, took time.Duration) {
			r := asking(basic("ci:wrong"))
			r.RemoteAddr = from
			began := time.Now()
			e = d.Stranger(r).(*Refusal)
			return e, time.Since(began)
		}
		for i := range burst {
			if e, took := guess("192.0.2.1:1"); e.Silent() || took != 0 || e.Remark() != "a wrong token, from 192.0.2.1" {
				t.Fatalf("guess %d: %q, silent %v, after %v", i, e.Remark(), e.Silent(), took)
			}
		}
		e, took := guess("192.0.2.1:2")
		if !e.Silent() || e.Drop() || took != time.Second {
			t.Errorf("one too many: silent %v, dropped %v, after %v, want a wait of a second", e.Silent(), e.Drop(), took)
		}
		if e, took := guess("192.0.2.2:1"); e.Silent() || took != 0 {
			t.Errorf("somebody else: silent %v, after %v", e.Silent(), took)
		}
		for i, from := range []string{"[2001:db8::1]:1", "[2001:db8::2]:1"} {
			if e, _ := guess(from); e.Remark() != "a wrong token, from 2001:db8::/64" {
				t.Errorf("%d: remark %q", i, e.Remark())
			}
		}
		if e, _ := guess("[::ffff:192.0.2.2]:1"); e.Remark() != "a wrong token, from 192.0.2.2" {
			t.Errorf("remark %q", e.Remark())
		}
		// The one who guesses can still come in.
		began := time.Now()
		r := asking(basic("ci:right"))
		r.RemoteAddr = "192.0.2.1:3"
		if _, ok := d.Ask(r); !ok || time.Since(began) != 0 {
			t.Errorf("a right token: %v, after %v", ok, time.Since(began))
		}
		// A client that wants to be asked first is, at once. Only the audit log leaves it out.
		r = asking()
		r.RemoteAddr = "192.0.2.1:4"
		began = time.Now()
		if e := d.Stranger(r).(*Refusal); time.Since(began) != 0 || e.Drop() || e.Error() != "none" || e.Remark() != "no token, from 192.0.2.1, after 1 more" {
			t.Errorf("no token: %v (%s) after %v", e, e.Remark(), time.Since(began))
		}
	})
}

// Who keeps guessing on many connections is not waited for, and who leaves does not wait.
func TestGuessingOnManyConnections(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		d := new(Door)
		for range burst {
			d.Stranger(asking(basic("ci:wrong")))
		}
		ctx, leave := context.WithCancel(t.Context())
		left := make(chan struct{}, maxHeld)
		for range maxHeld {
			go func() {
				d.Stranger(asking(basic("ci:wrong")).WithContext(ctx))
				left <- struct{}{}
			}()
		}
		synctest.Wait()
		if e := d.Stranger(asking(basic("ci:wrong"))).(*Refusal); !e.Drop() {
			t.Error("one more than may wait is not dropped")
		}
		began := time.Now()
		leave()
		for range maxHeld {
			<-left
		}
		if took := time.Since(began); took != 0 {
			t.Errorf("who left waited %v", took)
		}
	})
}

// The table of strangers has a bound: those behind it share one account.
func TestStrangersAreBounded(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var s strangers
		for i := range 10 * maxPeers {
			s.count(fmt.Sprint("peer ", i), time.Now())
		}
		if len(s.peers) > maxPeers+1 {
			t.Errorf("%d accounts, want at most %d", len(s.peers), maxPeers+1)
		}
		time.Sleep(time.Minute)
		if _, within := s.count("somebody", time.Now()); !within || len(s.peers) > maxPeers {
			t.Errorf("a minute later: %v, %d accounts", within, len(s.peers))
		}
	})
}

// On a connection that is open, a token that was removed stops counting within recheck; another token never counts for it.
func TestRemovedTokenOnAnOpenConnection(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		valid := true
		d := &Door{Tokens: func(name, token string) bool { return valid && One("ci", "right")(name, token) }}
		ctx := d.Conn(t.Context(), nil)
		ask := func(token string) bool {
			name, ok := d.Ask(asking(basic("ci:" + token)).WithContext(ctx))
			return ok && name == "ci"
		}
		if !ask("right") || ask("wrong") || !ask("right") {
			t.Error("a wrong token counts, or a right one does not")
		}
		valid = false
		time.Sleep(recheck)
		if ask("right") {
			t.Error("the token counts after it was removed")
		}
		valid = true
		if !ask("right") {
			t.Error("the token does not count again")
		}
		valid = false
		if d.Known(asking(basic("ci:right")).WithContext(d.Conn(t.Context(), nil))) {
			t.Error("it counts on a new connection")
		}
	})
}
