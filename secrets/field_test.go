package secrets

import (
	"errors"
	"testing"
)

// PutRef and RemoveRef change one field and leave the rest as it is.
func TestOneFieldOfAnItem(t *testing.T) {
	t.Parallel()
	store := fileStore(t, t.TempDir())
	ref := func(field string) Ref { return Ref{Scheme: "keyring", Name: "all", Field: field} }
	whole := func(want string) {
		t.Helper()
		item, err := store.read(t.Context(), "all")
		if want == "" && errors.Is(err, ErrNotFound) {
			return
		}
		if err != nil || item.Value != want {
			t.Errorf("got %s, %v, want %s", item.Value, err, want)
		}
	}
	put := func(field, value string, wantReplaced bool) {
		t.Helper()
		if replaced, err := store.PutRef(t.Context(), ref(field), NewValue(value)); err != nil || replaced != wantReplaced {
			t.Errorf("%s: replaced %v, %v, want %v", field, replaced, err, wantReplaced)
		}
	}
	remove := func(field string, want error) {
		t.Helper()
		if err := store.RemoveRef(t.Context(), ref(field)); !errors.Is(err, want) {
			t.Errorf("%s: got %v, want %v", field, err, want)
		}
	}
	remove("a", ErrNotFound)
	put("a", "1", false)
	whole(`{"a":"1"}`)
	put("b", `{"c":"2"}`, false)
	whole(`{"a":"1","b":"{\"c\":\"2\"}"}`)
	put("a", "3", true)
	whole(`{"a":"3","b":"{\"c\":\"2\"}"}`)
	remove("c", ErrNotFound)
	remove("a", nil)
	whole(`{"b":"{\"c\":\"2\"}"}`)
	remove("b", nil)
	whole("")
	if list, err := store.List(t.Context()); err != nil || len(list) != 0 {
		t.Errorf("left %v, %v", list, err)
	}

	if err := store.Set(t.Context(), "all", NewValue("plain")); err != nil {
		t.Fatal(err)
	}
	if _, err := store.PutRef(t.Context(), ref("a"), NewValue("1")); !errors.Is(err, ErrInvalid) {
		t.Errorf("a field of plain text: %v", err)
	}
	remove("a", ErrNotFound)
	whole("plain")
	if err := store.Set(t.Context(), "all", NewValue("{ \"x\" : 1.50 }\n")); err != nil {
		t.Fatal(err)
	}
	put("y", "z", false)
	whole("{ \"x\" : 1.50,\"y\":\"z\"}\n")
}
