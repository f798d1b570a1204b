package secrets

import (
	"context"
	"fmt"
	"os"
	"strconv"
	"testing"
)

// childVariable makes the test binary play another credproxy process.
const childVariable = "SECRETS_TEST_CHILD"

func TestMain(m *testing.M) {
	if code, ok := RunHelper(); ok {
		os.Exit(code)
	}
	if role := os.Getenv(childVariable); role != "" {
		if err := child(role, os.Getenv("SECRETS_TEST_STATE")); err != nil {
			fmt.Println(err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	// Under the race detector each of the many helper processes would sleep for a second before it ends.
	if err := os.Setenv("GORACE", os.Getenv("GORACE")+" atexit_sleep_ms=0"); err != nil {
		panic(err)
	}
	os.Exit(m.Run())
}

func child(role, state string) error {
	ctx := context.Background()
	if role == "nothing" {
		fmt.Println("reached main")
		return nil
	}
	store, err := OpenStore(StoreConfig{State: state, Backend: "file"})
	if err != nil {
		return err
	}
	switch role {
	case "count": // increments through Rotate
		r := NewResolver(Config{Store: store})
		defer r.Close()
		for range 6 {
			err := r.Rotate(ctx, Ref{Scheme: "keyring", Name: "counter"}, func(_ context.Context, current Value) (Value, error) {
				n, err := strconv.Atoi(current.Reveal())
				return NewValue(strconv.Itoa(n + 1)), err
			})
			if err != nil {
				return err
			}
		}
		return nil
	case "set":
		return store.Set(ctx, os.Getenv("SECRETS_TEST_NAME"), NewValue(os.Getenv("SECRETS_TEST_VALUE")))
	}
	return fmt.Errorf("unknown role %s", role)
}
