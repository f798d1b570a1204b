package proxy

import (
	"net/http"
	"time"
)

// A stallTimer ends writing to a client that takes nothing. Between writes it rests: a stream may be silent for hours.
type stallTimer struct {
	w     http.ResponseWriter
	after time.Duration
	timer *time.Timer
}

// begin must be called before something is written, and end afterwards, by one goroutine at a time.
func (s *stallTimer) begin() {
	if s.timer == nil {
		s.timer = time.AfterFunc(s.after, s.cut)
	} else {
		s.timer.Reset(s.after)
	}
}

func (s *stallTimer) end() { s.timer.Stop() }

// cut fails the write that is waiting: over HTTP/1.1 with the connection, over HTTP/2 with the stream.
func (s *stallTimer) cut() {
	_ = http.NewResponseController(s.w).SetWriteDeadline(time.Unix(1, 0))
}

// limitLast bounds what net/http writes after the handler has ended, and small answers.
func (s *Server) limitLast(w http.ResponseWriter) {
	_ = http.NewResponseController(w).SetWriteDeadline(deadline(s.limits.stall))
}
