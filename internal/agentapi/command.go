package agentapi

import (
	"bytes"
	"crypto"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"time"
	"unicode"
	"unicode/utf8"
)

// Kinds of commands.
const (
	Lock    = "lock"    // every session of a user
	Wipe    = "wipe"    // all that enrollment gave
	Erase   = "erase"   // everything, by the program that the device's administrator named there
	Renew   = "renew"   // the certificate
	Rotate  = "rotate"  // the tunnel's key, and the certificate with it
	Pool    = "pool"    // read anew where the device belongs
	Gateway = "gateway" // read the list of gateways anew, and connect by it
	Notify  = "notify"  // show the argument "text" to the user
)

// Kinds are all kinds of commands.
var Kinds = []string{Lock, Wipe, Erase, Renew, Rotate, Pool, Gateway, Notify}

// MaxText bounds the text of a notice, in bytes.
const MaxText = 1000

// Command is an order to one device.
type Command struct {
	Version  int               `json:"v"` // 1
	ID       string            `json:"id"`
	Device   string            `json:"device"`
	Session  []byte            `json:"session"`  // the one that it is given in, and counts in
	Sequence uint64            `json:"sequence"` // grows from command to command of a device
	Kind     string            `json:"kind"`
	Issued   time.Time         `json:"issued"`
	Expires  time.Time         `json:"expires"`
	Args     map[string]string `json:"args,omitempty"`
}

// States of a result.
const (
	Begun   = "begun"   // wipe and erase: what follows may leave nothing to answer with
	Done    = "done"    // and the effect was seen
	Failed  = "failed"  // it was tried, or the effect was not seen
	Unknown = "unknown" // it was begun, and how it ended is not known
	Refused = "refused" // it was not tried
)

// Result is what became of a command.
type Result struct {
	Version  int       `json:"v"` // 1
	Command  string    `json:"command"`
	Device   string    `json:"device"`
	Session  []byte    `json:"session"` // in which it is told
	Sequence uint64    `json:"sequence"`
	Kind     string    `json:"kind"`
	State    string    `json:"state"`
	Detail   string    `json:"detail,omitempty"` // one sentence for a person
	At       time.Time `json:"at"`
}

// CheckArgs says whether a kind of command may have these arguments.
func CheckArgs(kind string, args map[string]string) error {
	for name := range args {
		if kind != Notify || name != "text" {
			return fmt.Errorf("a command of kind %q has no argument %.40q", kind, name)
		}
	}
	if kind != Notify {
		return nil
	}
	text := args["text"]
	switch {
	case text == "":
		return errors.New("a notice needs a text")
	case len(text) > MaxText || !utf8.ValidString(text):
		return fmt.Errorf("a notice is UTF-8 of at most %d bytes", MaxText)
	}
	for _, r := range text { // a terminal shows it
		if r != '\n' && !unicode.IsPrint(r) {
			return fmt.Errorf("a notice holds printable characters only, not %q", r)
		}
	}
	return nil
}

// Sign signs the command as the gateway.
func (c Command) Sign(key crypto.Signer) (Signed, error) { return signJSON(key, domainCommand, c) }

// OpenCommand returns a command that the signer signed for this device and this session.
// Whether it is due is the device's to say.
func OpenCommand(s Signed, signer Signer, device string, session []byte) (Command, error) {
	var c Command
	if err := openJSON(s, signer.Key, domainCommand, &c); err != nil {
		return Command{}, fmt.Errorf("command: %w", err)
	}
	switch {
	case c.Version != 1, c.ID == "", len(c.ID) > 64, c.Sequence == 0, c.Sequence > MaxSequence, len(c.Kind) > 32, len(c.Args) > 8:
		return Command{}, fmt.Errorf("command: %w", ErrMalformed)
	case c.Device != device:
		return Command{}, errors.New("command: it is for another device")
	case !bytes.Equal(c.Session, session):
		return Command{}, errors.New("command: it is of another session")
	}
	return c, nil
}

// Sign signs the result as the device.
func (r Result) Sign(key crypto.Signer) (Signed, error) { return signJSON(key, domainResult, r) }

// OpenResult returns a result that the device signed in this session.
func OpenResult(s Signed, pub crypto.PublicKey, device string, session []byte) (Result, error) {
	var r Result
	if err := openJSON(s, pub, domainResult, &r); err != nil {
		return Result{}, fmt.Errorf("result: %w", err)
	}
	switch {
	case r.Version != 1, r.Command == "", len(r.Command) > 64, r.Sequence == 0, r.Sequence > MaxSequence, len(r.Kind) > 32, len(r.Detail) > MaxText, !utf8.ValidString(r.Detail):
		return Result{}, fmt.Errorf("result: %w", ErrMalformed)
	case r.Device != device, !bytes.Equal(r.Session, session):
		return Result{}, errors.New("result: it is of another device or session")
	}
	switch r.State {
	case Begun, Done, Failed, Unknown, Refused:
		return r, nil
	}
	return Result{}, fmt.Errorf("result: state %.40q: %w", r.State, ErrMalformed)
}

func signJSON(key crypto.Signer, domain string, v any) (Signed, error) {
	payload, err := json.Marshal(v)
	if err != nil {
		return Signed{}, err
	}
	sig, err := sign(key, domain, payload)
	return Signed{payload, sig}, err
}

// openJSON reads what was signed, after the signature was checked over its very bytes.
func openJSON(s Signed, pub crypto.PublicKey, domain string, v any) error {
	if err := checkSigned([]Signed{s}); err != nil {
		return err
	}
	if err := verify(pub, s.Signature, domain, s.Payload); err != nil {
		return err
	}
	d := json.NewDecoder(bytes.NewReader(s.Payload))
	d.DisallowUnknownFields()
	if err := d.Decode(v); err != nil {
		return fmt.Errorf("%w: %w", ErrMalformed, err)
	}
	if _, err := d.Token(); !errors.Is(err, io.EOF) {
		return ErrMalformed
	}
	return nil
}
