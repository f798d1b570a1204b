//go:build !linux

package proxy

import (
	"net"
	"time"
)

// limitStall does nothing here.
func limitStall(*net.TCPConn, time.Duration) {}
