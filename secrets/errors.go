package secrets

// An Error says which reference failed, why, and what to do. It never carries a value.
type Error struct {
	Op   string // resolve, set, list, rm, rotate
	Ref  string // as Ref.String prints it
	Kind error  // one of the Err… sentinels
	Why  string // detail that is safe to show, or empty
	Next string // the next command to type, or empty
}

func (e *Error) Error() string { panic("stub") }

// Unwrap gives the kind to errors.Is.
func (e *Error) Unwrap() error { return e.Kind }

// Slug is the failure's one name in the CLI, the log, the audit line and the HTTP answer.
func (e *Error) Slug() string { panic("stub") }

// Hint is the next command to type.
func (e *Error) Hint() string { return e.Next }
