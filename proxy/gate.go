package proxy

import "sync"

// A gate counts handlers that run, among them those of hijacked connections, for which no http.Server waits.
// The zero gate is open.
type gate struct {
	mu     sync.Mutex
	inside int
	empty  chan struct{} // set while someone waits
}

func (g *gate) enter() {
	g.mu.Lock()
	g.inside++
	g.mu.Unlock()
}

func (g *gate) leave() {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.inside--
	if g.inside == 0 && g.empty != nil {
		close(g.empty)
		g.empty = nil
	}
}

// wait returns when nobody is inside.
func (g *gate) wait() {
	g.mu.Lock()
	if g.inside == 0 {
		g.mu.Unlock()
		return
	}
	if g.empty == nil {
		g.empty = make(chan struct{})
	}
	empty := g.empty
	g.mu.Unlock()
	<-empty
}
