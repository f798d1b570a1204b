package certs

// An Error says why the local CA cannot be used, and what to do about it.
type Error struct {
	Text string // what is wrong
	Next string // the next command to type, or empty
	Err  error  // the cause, or nil
}

func (e *Error) Error() string {
	if e.Err == nil {
		return e.Text
	}
	return e.Text + ": " + e.Err.Error()
}

// Unwrap gives the cause to errors.Is.
func (e *Error) Unwrap() error { return e.Err }

// Slug is ca_unusable.
func (e *Error) Slug() string { return "ca_unusable" }

// Hint is the next command to type.
func (e *Error) Hint() string { return e.Next }
