package sse

import (
	"bufio"
	"io"
	"strings"
)

// longestLine bounds what one line of a stream may hold in memory. A worker that sends more is at fault, and the
// stream ends with bufio.ErrTooLong.
const longestLine = 1 << 20

// events splits a stream into events by the rules of the HTML standard's chapter on server-sent events, except that
// a lone carriage return does not end a line (no worker sends one, and telling it from half of a CRLF means waiting).
type events struct {
	lines *bufio.Scanner
}

func newEvents(stream io.Reader) *events {
	lines := bufio.NewScanner(stream)
	lines.Buffer(make([]byte, 0, 4096), longestLine)
	return &events{lines: lines}
}

// next waits for a whole event and returns its data and its type; io.EOF when the stream has ended. Events without
// data are passed over, and so is one that the stream's end cut off.
func (e *events) next() (data, kind string, err error) {
	var text strings.Builder
	filled := false
	for e.lines.Scan() {
		line := e.lines.Text()
		if line == "" {
			if filled {
				return text.String(), kind, nil
			}
			kind = ""
			continue
		}
		field, value, _ := strings.Cut(line, ":")
		value = strings.TrimPrefix(value, " ")
		switch field {
		case "data":
			if filled {
				text.WriteByte('\n')
			}
			text.WriteString(value)
			filled = true
		case "event":
			kind = value
		}
	}
	if err := e.lines.Err(); err != nil {
		return "", "", err
	}
	return "", "", io.EOF
}
