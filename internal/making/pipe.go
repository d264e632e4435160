package making

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"

	"lazaret/appliance/claim"
)

// line is one line of what a making process says.
type line struct {
	Step    string         `json:"step,omitempty"`
	Made    *Made          `json:"made,omitempty"`
	Refusal *claim.Refusal `json:"refusal,omitempty"`
	Error   string         `json:"error,omitempty"`
}

// Max bounds request and answer of a making process, in bytes.
const Max = 1 << 20

// Teller tells, as one JSON value to a line, how making goes on and how it ended.
type Teller struct{ to *json.Encoder }

// NewTeller returns one that tells on out.
func NewTeller(out io.Writer) Teller { return Teller{json.NewEncoder(out)} }

// Step tells how far it is. Whoever does not listen any more misses it.
func (t Teller) Step(what string) { _ = t.to.Encode(line{Step: what}) }

// End tells what was made, or the error that ended it; a *claim.Refusal arrives as one.
func (t Teller) End(made Made, err error) error {
	var last line
	if refusal, ok := errors.AsType[*claim.Refusal](err); ok {
		last.Refusal = refusal
	} else if err != nil {
		last.Error = err.Error()
	} else {
		last.Made = &made
	}
	return t.to.Encode(last)
}

// ReadRequest reads one Request, and nothing besides.
func ReadRequest(in io.Reader) (Request, error) {
	text, err := io.ReadAll(io.LimitReader(in, Max+1))
	if err != nil {
		return Request{}, fmt.Errorf("reading the request: %w", err)
	}
	var q Request
	d := json.NewDecoder(bytes.NewReader(text))
	d.DisallowUnknownFields()
	if len(text) > Max {
		return Request{}, fmt.Errorf("reading the request: it has more than %d bytes", Max)
	}
	if err := d.Decode(&q); err != nil {
		return Request{}, fmt.Errorf("reading the request of %d bytes: %w", len(text), err)
	}
	return q, nil
}

// ReadMade reads what a Teller tells, at the other end: a *claim.Refusal is passed on. Step,
// which may be nil, is told how far it is.
func ReadMade(in io.Reader, step func(string)) (Made, error) {
	s := bufio.NewScanner(in)
	s.Buffer(make([]byte, 0, 4096), Max)
	for s.Scan() {
		var l line
		if err := json.Unmarshal(s.Bytes(), &l); err != nil {
			return Made{}, fmt.Errorf("reading what was made: %w", err)
		}
		switch {
		case l.Made != nil:
			return *l.Made, nil
		case l.Refusal != nil:
			return Made{}, l.Refusal
		case l.Error != "":
			return Made{}, errors.New(l.Error)
		case l.Step != "" && step != nil:
			step(l.Step)
		}
	}
	return Made{}, fmt.Errorf("making the gateway: the process said nothing about its end: %w", errors.Join(s.Err(), io.ErrUnexpectedEOF))
}
