package inject

import (
	"sync"
	"time"
)

const (
	// skewTolerance is how far two clocks may be apart before it is worth a correction. AWS takes 5 minutes, and 15 for
	// S3; the rest is for the time that an answer travels.
	skewTolerance = 4 * time.Minute

	// maxSkew bounds what a server can make of our clock. A signature is good for minutes around its time, so whoever
	// could set our clock at will would get signatures for any time to come. They are for that server alone, whose name
	// is signed. More than a day is not a clock that runs wrong, but one that was never set.
	maxSkew = 24 * time.Hour

	// maxClocks bounds how many servers' clocks are known.
	maxClocks = 256
)

// clocks is how far the servers' clocks are ahead of ours. The zero clocks knows of none.
type clocks struct {
	mu   sync.Mutex
	skew map[string]time.Duration
}

// ahead is how far host's clock is ahead of ours, as far as is known.
func (c *clocks) ahead(host string) time.Duration {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.skew[host]
}

// learn takes server for host's time now, and reports whether that is news.
func (c *clocks) learn(host string, server, now time.Time) bool {
	skew := server.Sub(now).Round(time.Second)
	if skew.Abs() > maxSkew {
		return false
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if (skew - c.skew[host]).Abs() <= skewTolerance {
		return false
	}
	if skew.Abs() <= skewTolerance { // our clock was set right meanwhile
		delete(c.skew, host)
		return true
	}
	if c.skew == nil || len(c.skew) >= maxClocks {
		c.skew = map[string]time.Duration{}
	}
	c.skew[host] = skew
	return true
}
