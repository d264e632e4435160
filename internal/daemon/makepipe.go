package daemon

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/netip"

	"golang.org/x/net/netutil"

	"lazaret/appliance/claim"
)

// makeLine is one line of what a making process says.
type makeLine struct {
	Step    string         `json:"step,omitempty"`
	Made    *Made          `json:"made,omitempty"`
	Refusal *claim.Refusal `json:"refusal,omitempty"`
	Error   string         `json:"error,omitempty"`
}

// maxMake bounds request and answer of a making process, in bytes.
const maxMake = 1 << 20

// ServeMake reads one MakeRequest from in, makes the gateway, or a new administrator of the
// one there is, and tells on out, one JSON
// value to a line, its steps and how it ended. Secrets go by these pipes alone. An end that
// was told is no error: ReadMade returns it at the other end.
func ServeMake(ctx context.Context, in io.Reader, out io.Writer, at Places, log *slog.Logger) error {
	say := json.NewEncoder(out)
	made, err := func() (Made, error) {
		text, err := io.ReadAll(io.LimitReader(in, maxMake+1))
		if err != nil {
			return Made{}, fmt.Errorf("reading the request: %w", err)
		}
		var q MakeRequest
		d := json.NewDecoder(bytes.NewReader(text))
		d.DisallowUnknownFields()
		if err := d.Decode(&q); err != nil || len(text) > maxMake {
			return Made{}, fmt.Errorf("reading the request of %d bytes: %w", len(text), errors.Join(err))
		}
		step := func(step string) { _ = say.Encode(makeLine{Step: step}) }
		if q.Claim.AdministratorOnly {
			return MakeAdministrator(ctx, q, at, log, step)
		}
		return InitFromSetup(ctx, q, at, log, step)
	}()
	var last makeLine
	if refusal, ok := errors.AsType[*claim.Refusal](err); ok {
		last.Refusal = refusal
	} else if err != nil {
		last.Error = err.Error()
	} else {
		last.Made = &made
	}
	return say.Encode(last)
}

// ReadMade reads what ServeMake tells, at the other end: a *claim.Refusal is passed on.
func ReadMade(in io.Reader, step func(string)) (Made, error) {
	s := bufio.NewScanner(in)
	s.Buffer(make([]byte, 0, 4096), maxMake)
	for s.Scan() {
		var l makeLine
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

// claimMost and claimEach bound connections to an unclaimed machine, in all and of one address.
const (
	claimMost = 256
	claimEach = 16
)

// ListenClaim opens a listener for an unclaimed machine's door, with its bounds.
func ListenClaim(ctx context.Context, at netip.AddrPort) (net.Listener, error) {
	l, err := listen(ctx, "claims", at, false)
	if err != nil {
		return nil, err
	}
	return limitEach(netutil.LimitListener(l, claimMost), claimEach, outside(nil), slog.New(slog.DiscardHandler)), nil
}
