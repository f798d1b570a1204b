package cli

import (
	"context"
	"encoding/json"
	"errors"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"time"
)

// A running proxy, as serve writes it to the state folder for the other commands.
type running struct {
	PID     int       `json:"pid"`
	Listen  string    `json:"listen"`
	Rules   string    `json:"rules"`
	Token   bool      `json:"token"` // whether programs of the same user need one too
	Started time.Time `json:"started"`
}

func runtimePath(state string) string { return filepath.Join(state, "proxy.json") }

// announce writes r to the state folder. withdraw takes it back, unless another proxy has announced itself since.
func announce(state string, r running) (withdraw func(), err error) {
	data, err := json.Marshal(r)
	if err == nil {
		err = replaceFile(runtimePath(state), append(data, '\n'))
	}
	if err != nil {
		return nil, &failure{slug: slugState, text: "writing the state folder", next: "choose another folder with --state", err: err}
	}
	return func() {
		if now, err := announced(state); err == nil && now.PID == r.PID {
			_ = os.Remove(runtimePath(state)) // a stale file is recognised
		}
	}, nil
}

// announced is what the last proxy wrote, which may not run any more.
func announced(state string) (r running, err error) {
	data, err := os.ReadFile(runtimePath(state))
	if err != nil {
		return r, err
	}
	return r, json.Unmarshal(data, &r)
}

// findProxy finds the proxy that serves address, or if that is empty the one that runs with the state folder.
func findProxy(ctx context.Context, state, address string) (running, error) {
	known, err := announced(state)
	if err != nil || !alive(known.PID) {
		known = running{Listen: defaultListen}
	}
	if address != "" && address != known.Listen {
		known = running{Listen: address}
	}
	if !isProxy(ctx, known.Listen) {
		next := "credproxy serve"
		if known.Listen != defaultListen {
			next += " --listen " + quote(known.Listen)
		}
		return running{}, &failure{slug: slugNoProxy, text: "no proxy is running on " + known.Listen, next: next}
	}
	return known, nil
}

// isProxy asks whoever listens on address whether it is a credproxy.
func isProxy(ctx context.Context, address string) bool {
	ctx, cancel := context.WithTimeout(ctx, 2*time.Second)
	defer cancel()
	transport := &http.Transport{DisableKeepAlives: true, DialContext: new(net.Dialer).DialContext}
	req, err := http.NewRequestWithContext(ctx, http.MethodHead, "http://"+address+"/", nil)
	if err != nil {
		return false
	}
	resp, err := transport.RoundTrip(req)
	if err != nil {
		return false
	}
	defer resp.Body.Close()
	return strings.HasPrefix(resp.Header.Get("Proxy-Status"), "credproxy")
}

// replaceFile writes a file that only its owner can read, in one step.
func replaceFile(path string, data []byte) error {
	f, err := os.CreateTemp(filepath.Dir(path), filepath.Base(path)+".*.tmp")
	if err != nil {
		return err
	}
	_, werr := f.Write(data)
	err = errors.Join(werr, f.Sync(), f.Close())
	if err == nil {
		err = os.Rename(f.Name(), path)
	}
	if err != nil {
		_ = os.Remove(f.Name())
	}
	return err
}
