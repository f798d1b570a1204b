package rules

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"slices"
	"sync/atomic"
	"time"

	"github.com/credproxy/credproxy/inject"
	"github.com/credproxy/credproxy/internal/strict"
	"github.com/fsnotify/fsnotify"
)

const (
	// A change is read when it has been quiet for debounce, and at the latest after debounceMost.
	debounce     = 50 * time.Millisecond
	debounceMost = 150 * time.Millisecond

	// A file that is missing or empty is usually about to be written; only after this time is it reported.
	absenceGrace = 500 * time.Millisecond

	pollDefault = 2 * time.Second
	pollBlind   = 150 * time.Millisecond // where the system cannot notify
)

// A Watcher keeps the Set of a rules file up to date.
type Watcher struct {
	cfg     WatchConfig
	path    string // absolute
	current atomic.Pointer[Set]
	cancel  context.CancelFunc
	done    chan struct{}
	reloads chan chan struct{}

	// The rest belongs to the goroutine.
	notify  *fsnotify.Watcher // nil: the system cannot notify
	blind   bool              // a folder could not be watched
	entries map[string]bool   // whose changes matter
	folders []string          // watched
	files   []string          // that the rules refer to
	seen    [sha256.Size]byte // of what the last report was about
	absent  time.Time         // since when the file is missing or empty; zero: it is not
}

// WatchConfig is what a Watcher needs.
type WatchConfig struct {
	Path string
	Env  inject.Env
	// Changed is called after each reload, one at a time: with the new Set, which is in force already, or with the
	// error that kept the old one. A broken file is reported once, until it changes again. It must not call Reload
	// or Close. nil: nobody wants to know.
	Changed func(*Set, error)
	Deny    bool          // what no rule matches is refused, whatever the file says
	Poll    time.Duration // backstop for file systems without notification; 0 is 2 s
}

// Watch loads the file and follows it, and the files that its tls fields name, until ctx ends or Close. The first
// load must succeed; its error is a *FileError.
func Watch(ctx context.Context, cfg WatchConfig) (*Watcher, error) {
	path, err := filepath.Abs(cfg.Path)
	if err != nil {
		return nil, fmt.Errorf("watching rules: %w", err)
	}
	w := newWatcher(cfg, path)
	if w.notify, err = fsnotify.NewWatcher(); err != nil { // out of inotify instances: polling has to do
		w.notify = nil
	}
	if err := w.start(ctx); err != nil {
		return nil, err
	}
	return w, nil
}

func newWatcher(cfg WatchConfig, path string) *Watcher {
	if cfg.Poll <= 0 {
		cfg.Poll = pollDefault
	}
	return &Watcher{cfg: cfg, path: path, done: make(chan struct{}), reloads: make(chan chan struct{})}
}

// start loads the rules for the first time.
func (w *Watcher) start(ctx context.Context) error {
	set, err := w.first()
	if err != nil {
		w.stopNotify()
		return err
	}
	w.current.Store(set)
	ctx, w.cancel = context.WithCancel(ctx)
	go w.run(ctx)
	return nil
}

// Current is the Set in force. It is safe for concurrent use and costs one atomic load.
func (w *Watcher) Current() *Set { return w.current.Load() }

// Reload reads the file now, changed or not, and returns when Changed has been told.
func (w *Watcher) Reload() {
	told := make(chan struct{})
	select {
	case w.reloads <- told:
		<-told
	case <-w.done:
	}
}

// Close ends the Watcher and waits for its goroutine. Current stays usable.
func (w *Watcher) Close() {
	w.cancel()
	<-w.done
}

func (w *Watcher) stopNotify() {
	if w.notify != nil {
		w.notify.Close()
	}
}

func (w *Watcher) first() (*Set, error) {
	w.arm()
	data, err := readRules(w.path)
	if err != nil {
		return unreadable(w.cfg.Path, err)
	}
	return w.load(data)
}

// load parses data, with the files that it refers to under watch before they are read for the last time.
func (w *Watcher) load(data []byte) (*Set, error) {
	for {
		w.seen = w.digest(data, nil)
		set, err := Parse(w.cfg.Path, data, w.cfg.Env)
		files := filesOf(set, err)
		if slices.Equal(files, w.files) {
			if w.cfg.Deny {
				set = set.denying()
			}
			return set, err
		}
		w.files = files
		w.arm()
	}
}

func filesOf(set *Set, err error) []string {
	if set != nil {
		return set.files
	}
	var e *FileError
	if errors.As(err, &e) {
		return e.files
	}
	return nil
}

// digest is equal for equal contents of the rules file and of those that it refers to.
func (w *Watcher) digest(data []byte, err error) [sha256.Size]byte {
	h := sha256.New()
	fmt.Fprintf(h, "%d:%s%v", len(data), data, err)
	for _, f := range w.files {
		content, err := readBounded(f, strict.MaxSize)
		fmt.Fprintf(h, "%d:%s%v%v", len(content), content, err, safely(f))
	}
	return [sha256.Size]byte(h.Sum(nil))
}

func (w *Watcher) run(ctx context.Context) {
	defer close(w.done)
	defer w.stopNotify()
	var events chan fsnotify.Event
	var failures chan error
	if w.notify != nil {
		events, failures = w.notify.Events, w.notify.Errors
	}
	poll := time.NewTicker(w.interval())
	defer poll.Stop()
	quiet := time.NewTimer(time.Hour)
	defer quiet.Stop()
	quiet.Stop()
	var first time.Time // of the changes that wait; zero: none
	for {
		force := chan struct{}(nil)
		select {
		case <-ctx.Done():
			return
		case e := <-events:
			if w.matters(e.Name) {
				first = w.postpone(quiet, first)
			}
			continue
		case <-failures: // the queue has overflown: anything can have changed
			first = w.postpone(quiet, first)
			continue
		case force = <-w.reloads:
		case <-quiet.C:
		case <-poll.C:
		}
		first = time.Time{}
		quiet.Stop()
		if again := w.check(force != nil); again > 0 {
			quiet.Reset(again)
		}
		poll.Reset(w.interval())
		if force != nil {
			close(force)
		}
	}
}

func (w *Watcher) postpone(quiet *time.Timer, first time.Time) time.Time {
	now := time.Now()
	if first.IsZero() {
		first = now
	}
	quiet.Reset(max(0, min(debounce, debounceMost-now.Sub(first))))
	return first
}

func (w *Watcher) interval() time.Duration {
	if w.notify == nil || w.blind {
		return min(pollBlind, w.cfg.Poll)
	}
	return w.cfg.Poll
}

// check reloads if anything has changed. It returns when to check again for an absent file, or 0.
func (w *Watcher) check(force bool) (again time.Duration) {
	w.arm()
	data, err := readRules(w.path)
	if errors.Is(err, fs.ErrNotExist) || err == nil && len(bytes.TrimSpace(data)) == 0 {
		if w.absent.IsZero() {
			w.absent = time.Now()
		}
		if left := absenceGrace - time.Since(w.absent); left > 0 && !force {
			return left
		}
	} else {
		w.absent = time.Time{}
	}
	if seen := w.digest(data, err); seen == w.seen && !force {
		return 0
	}
	var set *Set
	if err == nil {
		set, err = w.load(data)
	} else {
		w.seen = w.digest(nil, err)
		_, err = unreadable(w.cfg.Path, err)
	}
	if err == nil {
		w.current.Store(set)
	}
	if w.cfg.Changed != nil {
		w.cfg.Changed(set, err)
	}
	return 0
}

// arm watches the folders in which a change can matter. Folders that were removed and made anew are watched anew.
func (w *Watcher) arm() {
	if w.notify == nil {
		return
	}
	w.entries = make(map[string]bool)
	w.blind = false
	var folders []string
	for _, path := range append([]string{w.path}, w.files...) {
		for _, entry := range chain(path) {
			w.entries[entry] = true
			if folder := filepath.Dir(entry); !slices.Contains(folders, folder) {
				folders = append(folders, folder)
			}
		}
	}
	for _, old := range w.folders {
		if !slices.Contains(folders, old) {
			_ = w.notify.Remove(old) // it may be gone already
		}
	}
	for _, folder := range folders {
		if w.notify.Add(folder) != nil {
			w.blind = true
		}
	}
	w.folders = folders
}

// matters reports whether an event concerns an entry on the way to a file, or a watched folder itself.
func (w *Watcher) matters(name string) bool {
	name = filepath.Clean(name)
	return w.entries[name] || slices.Contains(w.folders, name)
}
