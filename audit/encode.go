package audit

import (
	"encoding/json"
	"strconv"
	"time"
)

// appendJSON appends e as encoding/json writes it, with a tenth of the work: there is one event for each request.
func (e *Event) appendJSON(b []byte) []byte {
	b = append(b, `{"time":"`...)
	b = e.Time.AppendFormat(b, time.RFC3339Nano)
	b = append(b, '"')
	b = appendField(b, "client", e.Client, true)
	b = appendField(b, "method", e.Method, false)
	b = appendField(b, "host", e.Host, false)
	b = appendField(b, "path", e.Path, true)
	b = appendField(b, "rule", e.Rule, true)
	b = appendField(b, "decision", e.Decision, false)
	b = appendField(b, "reason", e.Reason, true)
	b = appendList(b, "inject", e.Inject)
	b = appendList(b, "secrets", e.Secrets)
	if e.Status != 0 {
		b = appendNumber(b, "status", int64(e.Status))
	}
	b = appendNumber(b, "sent", e.Sent)
	b = appendNumber(b, "received", e.Received)
	b = appendNumber(b, "duration_ns", int64(e.Duration))
	b = appendField(b, "error", e.Error, true)
	b = appendField(b, "trial", e.Trial, true)
	return append(b, '}')
}

func appendName(b []byte, name string) []byte {
	b = append(b, `,"`...)
	b = append(b, name...)
	return append(b, `":`...)
}

func appendField(b []byte, name, value string, omitEmpty bool) []byte {
	if omitEmpty && value == "" {
		return b
	}
	return appendString(appendName(b, name), value)
}

func appendNumber(b []byte, name string, value int64) []byte {
	return strconv.AppendInt(appendName(b, name), value, 10)
}

func appendList(b []byte, name string, values []string) []byte {
	if len(values) == 0 {
		return b
	}
	b = append(appendName(b, name), '[')
	for i, value := range values {
		if i > 0 {
			b = append(b, ',')
		}
		b = appendString(b, value)
	}
	return append(b, ']')
}

func appendString(b []byte, s string) []byte {
	for i := range len(s) {
		if c := s[i]; c < ' ' || c > '~' || c == '"' || c == '\\' || c == '<' || c == '>' || c == '&' {
			quoted, err := json.Marshal(s)
			if err != nil {
				quoted = []byte(`""`) // a string always encodes
			}
			return append(b, quoted...)
		}
	}
	b = append(b, '"')
	b = append(b, s...)
	return append(b, '"')
}
