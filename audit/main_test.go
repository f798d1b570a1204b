package audit

import (
	"fmt"
	"os"
	"strconv"
	"testing"
	"time"
)

// childVariable makes the test binary play another credproxy process. It names the log.
const childVariable = "AUDIT_TEST_CHILD"

func TestMain(m *testing.M) {
	if path := os.Getenv(childVariable); path != "" {
		if err := child(path); err != nil {
			fmt.Println(err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	os.Exit(m.Run())
}

// child writes AUDIT_TEST_EVENTS events, each in a write of its own, and says so after each.
func child(path string) error {
	events, err := strconv.Atoi(os.Getenv("AUDIT_TEST_EVENTS"))
	if err != nil {
		return err
	}
	f, err := OpenFile(path)
	if err != nil {
		return err
	}
	f.bound = 64 << 10
	for i := range events {
		e := Event{Time: time.Now(), Method: "GET", Host: "api.example.com", Path: fmt.Sprintf("/%d/%d", os.Getpid(), i), Decision: "inject"}
		if _, err := f.Write(append(e.appendJSON(nil), '\n')); err != nil {
			return err
		}
		fmt.Println(i)
	}
	return nil
}
