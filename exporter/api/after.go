package api

import (
	"lockstitch/exporter/cursor"
	"lockstitch/state/report"
)

// beginning is where the first report of a walk begins.
const beginning = "beginning"

// notACursor is said of everything that is none, so that it helps nobody to
// guess one.
const notACursor = `must be "beginning" or a cursor that a report of this account has returned`

// after reads the member of that name, as far as it can be without keys.
func (e *fieldErrors) after(m members, v any) string {
	for _, name := range []string{"start_at", "end_at"} {
		if _, ok := m[name]; ok {
			e.add("/"+name, "does not go with after: an export has a window of time, or holds everything since a cursor")
		}
	}
	text, _ := v.(string)
	if text == "" {
		e.add("/after", notACursor)
	}
	return text
}

// positionAfter is the position in the input that a report begins after.
func positionAfter(cursors *cursor.Codec, account, text string) ([]report.End, error) {
	if text == beginning {
		return nil, nil
	}
	at, err := cursors.Decode(account, text)
	if err != nil {
		return nil, invalid(FieldError{"/after", notACursor})
	}
	return at, nil
}
