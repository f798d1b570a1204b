//go:build unix

package proxy

import (
	"bytes"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strconv"
	"testing"
	"time"
)

// BenchmarkScrub downloads 100 MiB of JSON, searched for the credential and not.
func BenchmarkScrub(b *testing.B) {
	var item bytes.Buffer
	for i := 0; item.Len() < 1<<20; i++ {
		fmt.Fprintf(&item, `{"id":%d,"name":"item %d","sha":"%x","tags":["a","b"],"url":"https://api.example.com/items/%d"},`+"\n", i, i, i*7919, i)
	}
	ca := newTestCA(b, "upstream")
	up := startUpstream(b, ca, false, func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		w.Header().Set("Content-Length", strconv.Itoa(100*item.Len()))
		for range 100 {
			_, _ = w.Write(item.Bytes())
		}
	})
	p := startProxy(b, ca, bearerRule(b, "scrub.localhost", up.port)+bearerRule(b, "plain.localhost", up.port)+"    scrub: false\n", fileAudit(b))
	c := benchClient(b, p.addr, p.ca, 1)
	download := func(host string) float64 {
		start := time.Now()
		resp, err := c.Get(up.url(host, "/"))
		if err != nil {
			b.Fatal(err)
		}
		if got, err := io.Copy(io.Discard, resp.Body); err != nil || got != int64(100*item.Len()) {
			b.Fatal(got, err)
		}
		resp.Body.Close()
		return time.Since(start).Seconds()
	}
	var ratios, plain []float64
	for range max(b.N, 9) { // in turns, and of all the middle one
		each := download("plain.localhost")
		plain, ratios = append(plain, each), append(ratios, each/download("scrub.localhost"))
	}
	slices.Sort(ratios)
	slices.Sort(plain)
	b.ReportMetric(ratios[len(ratios)/2], "scrubbed-x-plain")
	b.ReportMetric(100/plain[len(plain)/2], "plain-MiB/s")
}
