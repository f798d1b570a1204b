package cli

import (
	"testing"
	"time"
)

// At a terminal the address can be pasted without any flag, and ^C ends it like everything else.
func TestLoginAtATerminal(t *testing.T) {
	t.Parallel()
	for _, typed := range []string{"paste", "\x03"} {
		s := newEasyServer(t, tokenAnswer)
		w := newEasyWorld(t, s.rule(""))
		master, slave := newTerminal(t)
		login := &signingIn{cmd: w.command(t, "login", "me")}
		attach(login.cmd, slave)
		stderr, err := login.cmd.StderrPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := login.cmd.Start(); err != nil {
			t.Fatal(err)
		}
		ended := time.AfterFunc(20*time.Second, func() { _ = login.cmd.Process.Kill() })
		defer ended.Stop()
		login.lines = lines(stderr)
		back := backFrom(t, login.find(t, signInAddress))
		login.find(t, "^Waiting for you")
		want := 130
		if typed == "paste" {
			typed, want = back.String()+"\n", 0
		}
		if _, err := master.WriteString(typed); err != nil {
			t.Fatal(err)
		}
		said, status := login.end(t)
		if stored := w.stored(t, "me") != ""; status != want || stored != (want == 0) {
			t.Errorf("exit status %d, want %d, stored is %v:\n%s", status, want, stored, said)
		}
		awaitEcho(t, slave, true)
	}
}
