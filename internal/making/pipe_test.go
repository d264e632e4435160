package making

import (
	"bytes"
	"errors"
	"io"
	"slices"
	"strings"
	"testing"

	"lazaret/appliance/claim"
)

// TestPipe: what is told at one end arrives at the other: steps, what was made, a refusal as one,
// another error by its words. A process that says nothing about its end has not made anything.
func TestPipe(t *testing.T) {
	made := Made{Config: []byte("text"), Answer: claim.Answer{Version: 1, Name: "gw"}}
	for name, x := range map[string]struct {
		made Made
		err  error
	}{
		"made": {made: made}, "refused": {err: &claim.Refusal{Kind: claim.Invalid, What: "no"}}, "failed": {err: errors.New("the disk is full")},
	} {
		var b bytes.Buffer
		tell := NewTeller(&b)
		tell.Step("one")
		tell.Step("two")
		if err := tell.End(x.made, x.err); err != nil {
			t.Fatal(err)
		}
		var steps []string
		got, err := ReadMade(&b, func(s string) { steps = append(steps, s) })
		if !slices.Equal(steps, []string{"one", "two"}) || string(got.Config) != string(x.made.Config) || got.Answer.Name != x.made.Answer.Name {
			t.Errorf("%s: %q, %+v", name, steps, got)
		}
		if (err == nil) != (x.err == nil) || err != nil && err.Error() != x.err.Error() {
			t.Errorf("%s: %v, want %v", name, err, x.err)
		}
		if _, refused := errors.AsType[*claim.Refusal](err); refused != (name == "refused") {
			t.Errorf("%s: is a refusal: %v", name, refused)
		}
	}
	for _, text := range []string{"", `{"step":"one"}`, "{}\n{}", "no JSON"} {
		if got, err := ReadMade(strings.NewReader(text), nil); err == nil {
			t.Errorf("%q made %+v", text, got)
		}
	}
}

// TestReadRequest: one request, and none that has something unknown in it or is too long.
func TestReadRequest(t *testing.T) {
	if _, err := ReadRequest(strings.NewReader(`{"claim":{},"network":{}}`)); err != nil {
		t.Error(err)
	}
	for _, text := range []string{"", "[]", `{"other":1}`, `{"claim":{}}` + strings.Repeat(" ", Max)} {
		if _, err := ReadRequest(strings.NewReader(text)); err == nil || strings.Contains(err.Error(), "%!") {
			t.Errorf("%.40q: %v", text, err)
		}
	}
	if _, err := ReadRequest(brokenPipe{}); !errors.Is(err, io.ErrClosedPipe) {
		t.Error(err)
	}
}

type brokenPipe struct{}

func (brokenPipe) Read([]byte) (int, error) { return 0, io.ErrClosedPipe }
