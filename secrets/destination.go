package secrets

import (
	"context"
	"slices"
	"strings"
)

// A destination is where what is resolved will be sent, or what is made of it.
type destination struct {
	hosts  []string
	unsent bool
}

// DestinationKey is the key of a context's destination, for contexts that know it by themselves.
type DestinationKey struct{}

// Destination is the value under DestinationKey of a context whose secrets go to host.
func Destination(host string) any { return destination{hosts: []string{plainHost(host)}} }

// For says that secrets which are resolved with the context go to hosts, and not where ctx says. A secret that is bound to hosts is given out only for these, and never with a context that does not say where it
// goes.
func For(ctx context.Context, hosts ...string) context.Context {
	var d destination
	for _, host := range hosts {
		d.hosts = append(d.hosts, plainHost(host))
	}
	return context.WithValue(ctx, DestinationKey{}, d)
}

// Unsent says that secrets which are resolved with the context are looked at and go nowhere.
func Unsent(ctx context.Context) context.Context {
	return context.WithValue(ctx, DestinationKey{}, destination{unsent: true})
}

func plainHost(host string) string { return strings.TrimSuffix(strings.ToLower(host), ".") }

// checkDestination says why a secret bound to hosts must not be used for what ctx says, or nothing. No hosts are all hosts.
func checkDestination(ctx context.Context, hosts []string) error {
	if len(hosts) == 0 {
		return nil
	}
	d, _ := ctx.Value(DestinationKey{}).(destination)
	if d.unsent {
		return nil
	}
	wrong := "a place that is not known"
	if i := slices.IndexFunc(d.hosts, func(host string) bool { return !within(hosts, host) }); i >= 0 {
		wrong = d.hosts[i]
	} else if len(d.hosts) > 0 {
		return nil
	}
	return &Error{Kind: ErrMisdirected, Why: "it may go to " + strings.Join(hosts, ", ") + " only, and not to " + wrong}
}

// within reports whether one of the patterns, names or *.domain, covers host or, if that is one too, all that it covers.
func within(patterns []string, host string) bool {
	return slices.ContainsFunc(patterns, func(p string) bool {
		domain, wild := strings.CutPrefix(p, "*")
		return p == host || wild && len(host) > len(domain) && strings.HasSuffix(host, domain)
	})
}

// note keeps where what ref stands for may go. Forget does not forget that: tokens that were made of it live on. r.mu is held.
func (r *Resolver) note(ref Ref, hosts []string) {
	if len(hosts) > 0 {
		r.bound[ref] = hosts
	} else {
		delete(r.bound, ref)
	}
}

// May reports, without I/O, whether what was made of ref's value when it was last resolved may be used for what ctx says.
func (r *Resolver) May(ctx context.Context, ref Ref) error {
	r.mu.RLock()
	hosts := r.bound[ref]
	r.mu.RUnlock()
	if err := checkDestination(ctx, hosts); err != nil {
		return withNext(asError("use", ref, err), ref)
	}
	return nil
}
