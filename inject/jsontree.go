package inject

import (
	"encoding/json"

	"github.com/credproxy/credproxy/internal/strict"
	"github.com/credproxy/credproxy/secrets"
	"gopkg.in/yaml.v3"
)

// A jsonTree is JSON as a rule writes it, in which each text may be a reference.
type jsonTree struct {
	Root any // map[string]any, []any, textOrRef, or another scalar
	Refs []secrets.Ref
}

// UnmarshalYAML takes every mapping for an object, but the one of an exec reference.
func (t *jsonTree) UnmarshalYAML(n *yaml.Node) (err error) {
	t.Root, err = t.read(n)
	return err
}

func (t *jsonTree) read(n *yaml.Node) (any, error) {
	switch {
	case n.Kind == yaml.MappingNode && field(n, "exec") == nil:
		out := make(map[string]any, len(n.Content)/2)
		for i := 0; i+1 < len(n.Content); i += 2 {
			name, value := n.Content[i].Value, n.Content[i+1]
			v, err := t.read(value)
			if err != nil {
				return nil, err
			}
			if leaf, ok := v.(textOrRef); ok && leaf.Text != "" && secretField.MatchString(name) {
				return nil, strict.Errorf(value, "login: json: want a reference here, such as keyring:NAME")
			}
			out[name] = v
		}
		return out, nil
	case n.Kind == yaml.SequenceNode:
		out := make([]any, 0, len(n.Content))
		for _, item := range n.Content {
			v, err := t.read(item)
			if err != nil {
				return nil, err
			}
			out = append(out, v)
		}
		return out, nil
	case n.Kind == yaml.ScalarNode && n.ShortTag() != "!!str" && n.ShortTag() != "!!timestamp":
		var v any
		if n.Decode(&v) != nil {
			return nil, strict.Errorf(n, "login: json: want a value that JSON has")
		}
		if _, err := json.Marshal(v); err != nil { // .nan
			return nil, strict.Errorf(n, "login: json: want a value that JSON has")
		}
		return v, nil
	}
	var leaf textOrRef
	if err := leaf.UnmarshalYAML(n); err != nil {
		return nil, strict.Errorf(n, "login: json: %s", err)
	}
	if !leaf.Ref.IsZero() {
		t.Refs = append(t.Refs, leaf.Ref)
	}
	return leaf, nil
}

// mapTree is root with what leaf makes of each text.
func mapTree(root any, leaf func(textOrRef) (any, error)) (any, error) {
	switch v := root.(type) {
	case textOrRef:
		return leaf(v)
	case map[string]any:
		out := make(map[string]any, len(v))
		for name, item := range v {
			mapped, err := mapTree(item, leaf)
			if err != nil {
				return nil, err
			}
			out[name] = mapped
		}
		return out, nil
	case []any:
		out := make([]any, len(v))
		for i, item := range v {
			var err error
			if out[i], err = mapTree(item, leaf); err != nil {
				return nil, err
			}
		}
		return out, nil
	}
	return root, nil
}
