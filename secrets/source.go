package secrets

import (
	"context"
	"io/fs"
	"time"
)

// A source is one scheme of references. A new one is a file, a line in the table below and a section in
// docs/secrets.md.
type source struct {
	scheme string

	// check says what is wrong with a name, without repeating it. Where it is nil the scheme has no plain form.
	check func(name string) error

	// stamp is the cheap state of what a value depends on: a cached value with another stamp is stale.
	stamp func(st *Store, ref Ref) stamp

	// fetch reads the whole secret; the resolver picks the field. It ends with ctx.
	fetch func(ctx context.Context, st *Store, ref Ref) (Value, error)

	limit time.Duration // of one fetch, if the reference does not say
	keep  time.Duration // of one value, if the reference does not say; 0: as long as its stamp
	width int           // fetches at once
}

var sources = []*source{
	{scheme: "keyring", check: checkName, stamp: stampKeyring, fetch: fetchKeyring, limit: 130 * time.Second, keep: 10 * time.Minute, width: 4},
	{scheme: "env", check: checkEnv, stamp: noStamp, fetch: fetchEnv, limit: time.Second, width: 4},
	{scheme: "file", check: checkPath, stamp: stampFile, fetch: fetchFile, limit: 10 * time.Second, width: 8},
	{scheme: "exec", stamp: noStamp, fetch: fetchExec, limit: 30 * time.Second, keep: 5 * time.Minute, width: 8},
}

// A stamp is comparable. The zero stamp never changes.
type stamp struct {
	generation int64
	modified   int64 // nanoseconds since 1970
	size       int64
	mode       fs.FileMode
	inode      uint64
}

func noStamp(*Store, Ref) stamp { return stamp{} }

// settled reports whether a file that looks the same is the same. Within one tick of the file system's clock a
// second write leaves no trace in the stamp.
func (s stamp) settled(now time.Time) bool {
	return s.modified == 0 || now.Sub(time.Unix(0, s.modified)) > 2*time.Second
}

// Sources lists the schemes of references.
func Sources() []string {
	names := make([]string, len(sources))
	for i, s := range sources {
		names[i] = s.scheme
	}
	return names
}

func sourceOf(scheme string) *source {
	for _, s := range sources {
		if s.scheme == scheme {
			return s
		}
	}
	return nil
}
