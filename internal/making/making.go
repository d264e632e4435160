// Package making is what process number 1 of an appliance and its child that makes a gateway
// of a claim say to each other, by pipes alone, since there are secrets in it; and how what was
// made is kept. The making itself is in package daemon.
package making

import (
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"os"
	"path/filepath"

	"lazaret/appliance"
	"lazaret/appliance/claim"
	"lazaret/internal/config"
	"lazaret/internal/durable"
)

// Places says where an appliance keeps what is made.
type Places struct {
	Config string // configuration file; it comes last
	State  string // of the control plane: ours, or not there yet
	Plane  string // state of the data plane
}

// AppliancePlaces are those of a running appliance.
var AppliancePlaces = Places{Config: appliance.ConfigPath, State: appliance.ControlState, Plane: appliance.PlaneState}

// Request is a claim as the machine knows it.
type Request struct {
	Claim     claim.Request     `json:"claim"`
	Network   appliance.Network `json:"network"`             // as it is, where the claim changes nothing
	Addresses []netip.Prefix    `json:"addresses,omitempty"` // that the machine has at present
}

// Made is what was made. It holds a secret, the token in Answer.
type Made struct {
	Config []byte       `json:"config"` // text of the configuration file, for Keep
	Answer claim.Answer `json:"answer"`
}

// HalfMade is a file in the state directory that is there from before anything is made
// until the configuration is: beside no configuration it says that what else is there was
// handed to nobody, and may be made anew.
const HalfMade = "half-made"

// Keep makes a made gateway the machine's: it writes the configuration file whole, and
// then takes the mark away that would have it made anew. Called again after an error or a
// crash, with the same text, it does what was left.
func Keep(at Places, text []byte) error {
	if _, err := config.Parse(at.Config, text); err != nil {
		return fmt.Errorf("keeping the gateway: %w", err)
	}
	if _, err := os.Lstat(at.Config); errors.Is(err, fs.ErrNotExist) {
		if err := durable.MakeDir(filepath.Dir(at.Config), 0o755); err != nil {
			return fmt.Errorf("keeping the gateway: %w", err)
		}
		if err := durable.Write(at.Config, text, 0o644); err != nil {
			return fmt.Errorf("keeping the gateway: %w", err)
		}
	} else if err != nil {
		return fmt.Errorf("keeping the gateway: %w", err)
	}
	if err := os.Remove(filepath.Join(at.State, HalfMade)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("keeping the gateway: %w", err)
	}
	return durable.SyncDir(at.State)
}
