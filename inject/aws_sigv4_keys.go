package inject

import (
	"context"
	"encoding/json"
	"strings"
	"time"

	"github.com/credproxy/credproxy/secrets"
)

// awsKeys are what a request is signed with.
type awsKeys struct{ id, secret, token secrets.Value } // token may be zero

// processKeys are awsKeys that may end.
type processKeys struct {
	awsKeys
	expires time.Time // zero: never
}

const (
	wantsProcess = `the JSON that an AWS credential_process prints, such as {"Version": 1, "AccessKeyId": …, "SecretAccessKey": …, "SessionToken": …, "Expiration": …}`

	// renewBefore is when keys that end are asked for again. It is longer than the pause after a Reject, so that a
	// command which has nothing new yet is asked once more before the end.
	renewBefore = 2 * time.Minute
)

// keys resolves what to sign with, and returns the values that Apply returns.
func (a *sigV4) keys(ctx context.Context, now time.Time) (keys awsKeys, used []secrets.Value, err error) {
	if !a.process.IsZero() {
		return a.processKeys(ctx, now)
	}
	if keys.secret, err = a.env.use(ctx, a.secret, badText); err != nil {
		return keys, nil, err
	}
	if keys.id, err = a.env.use(ctx, a.id, badKeyID); err != nil {
		return keys, nil, err
	}
	used = []secrets.Value{keys.secret, keys.id}
	if !a.token.IsZero() {
		if keys.token, err = a.env.use(ctx, a.token, badHeaderValue); err != nil {
			return keys, nil, err
		}
		used = append(used, keys.token)
	}
	return keys, used, nil
}

// processKeys resolves keys that say themselves when they end. Those that do soon are read again.
func (a *sigV4) processKeys(ctx context.Context, now time.Time) (awsKeys, []secrets.Value, error) {
	var keys processKeys
	read := func() (secrets.Value, error) {
		return a.env.useAs(ctx, a.process, wantsProcess, func(text string) (bad string) {
			keys, bad = a.parsed.of(secrets.NewValue(text), parseProcess)
			return bad
		})
	}
	whole, err := read()
	if err == nil && keys.endBy(now.Add(renewBefore)) {
		a.env.Secrets.Reject(a.process, whole)
		whole, err = read()
	}
	if err != nil {
		return awsKeys{}, nil, err
	}
	if keys.endBy(now) {
		next := replaceHint(a.process, "keys that have not expired")
		if a.process.Scheme == "exec" {
			next = "run the command by hand and see which Expiration it prints; sign in again if it needs that, and check this computer's clock"
		}
		return awsKeys{}, nil, &secrets.Error{Op: "use", Ref: a.process.String(), Kind: secrets.ErrInvalid, Why: "the keys have expired", Next: next}
	}
	used := []secrets.Value{whole, keys.secret}
	if !keys.token.IsZero() {
		used = append(used, keys.token)
	}
	return keys.awsKeys, used, nil
}

func (k processKeys) endBy(t time.Time) bool { return !k.expires.IsZero() && !t.Before(k.expires) }

// parseProcess reads what a credential_process prints.
// https://docs.aws.amazon.com/sdkref/latest/guide/feature-process-credentials.html
func parseProcess(text string) (keys processKeys, bad string) {
	var doc struct {
		Version         int
		AccessKeyId     string
		SecretAccessKey string
		SessionToken    string
		Expiration      string
	}
	if json.Unmarshal([]byte(text), &doc) != nil {
		return keys, "it is not the JSON that a credential_process prints"
	}
	for _, field := range []struct{ name, value, bad string }{
		{"AccessKeyId", doc.AccessKeyId, badKeyID(doc.AccessKeyId)},
		{"SecretAccessKey", doc.SecretAccessKey, badText(doc.SecretAccessKey)},
		{"SessionToken", doc.SessionToken, badHeaderValue(doc.SessionToken)},
	} {
		if field.bad != "" && (field.value != "" || field.name != "SessionToken") {
			return keys, "its " + field.name + " is not usable: " + field.bad
		}
	}
	if doc.Version != 1 {
		return keys, "its Version is not 1"
	}
	if doc.Expiration != "" {
		var err error
		if keys.expires, err = time.Parse(time.RFC3339, doc.Expiration); err != nil {
			return keys, "its Expiration is not a time such as 2030-01-02T15:04:05Z"
		}
	}
	keys.id, keys.secret = secrets.NewValue(doc.AccessKeyId), secrets.NewValue(doc.SecretAccessKey)
	if doc.SessionToken != "" {
		keys.token = secrets.NewValue(doc.SessionToken)
	}
	return keys, ""
}

// badKeyID finds what would end the access key's id in a header or in a credential scope.
func badKeyID(s string) string {
	if bad := badHeaderValue(s); bad != "" {
		return bad
	}
	if strings.ContainsAny(s, " /,;=") {
		return "an access key's id has no spaces, slashes, commas, semicolons or equals signs"
	}
	return ""
}
