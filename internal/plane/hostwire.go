package plane

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"time"

	"lazaret/firewall"
)

// The host rules on the data plane's administrative socket and in its record: JSON of
// version 1. A connection carries one request and one answer.

const (
	hostVersion = 1
	hostLimit   = 256 << 10 // bytes of a request or of the record
	heldLimit   = 64 << 20  // bytes of an answer, which may hold the reach of a thousand pools
)

// hostService is a firewall.Service.
type hostService struct {
	Protocol string         `json:"protocol"`
	Port     uint16         `json:"port,omitempty"`
	Networks []netip.Prefix `json:"networks,omitempty"`
}

// hostRecord is what was confirmed last.
type hostRecord struct {
	Version int           `json:"version"`
	In      []hostService `json:"in"`
	Out     []hostService `json:"out"`
}

func newHostRecord(h HostServices) hostRecord {
	return hostRecord{Version: hostVersion, In: toWire(h.In), Out: toWire(h.Out)}
}

func (r hostRecord) services() HostServices { return HostServices{fromWire(r.In), fromWire(r.Out)} }

func toWire(list []firewall.Service) []hostService {
	out := make([]hostService, len(list))
	for i, s := range list {
		out[i] = hostService{string(s.Protocol), s.Port, s.From}
	}
	return out
}

func fromWire(list []hostService) []firewall.Service {
	var out []firewall.Service
	for _, s := range list {
		out = append(out, firewall.Service{Protocol: firewall.Protocol(s.Protocol), Port: s.Port, From: s.Networks})
	}
	return out
}

// hostVerb is what a request asks for.
type hostVerb string

const (
	hostShow    hostVerb = "show"
	hostTry     hostVerb = "try"
	hostConfirm hostVerb = "confirm"
	hostRevert  hostVerb = "revert"
	hostHeld    hostVerb = "held"
)

// hostRequest asks for one thing.
type hostRequest struct {
	Version  int         `json:"version"`
	Do       hostVerb    `json:"do"`
	Seconds  int         `json:"seconds,omitempty"`  // try
	Services *hostRecord `json:"services,omitempty"` // try
}

// hostAnswer is what became of it; with an error, State is how things stand.
type hostAnswer struct {
	Version   int        `json:"version"`
	Error     string     `json:"error,omitempty"`
	InForce   hostRecord `json:"in_force"`
	Confirmed hostRecord `json:"confirmed"`
	Until     time.Time  `json:"until,omitzero"`

	Held *firewall.Ruleset `json:"held,omitempty"` // held: all that the kernel holds, pools too
}

func parseHostRecord(text []byte) (hostRecord, error) {
	r, err := strict[hostRecord](text)
	if err == nil && r.Version != hostVersion {
		err = fmt.Errorf("version %d, want %d", r.Version, hostVersion)
	}
	if err != nil {
		return hostRecord{}, fmt.Errorf("reading host rules: %w", err)
	}
	return r, nil
}

func parseHostRequest(text []byte) (hostRequest, error) {
	r, err := strict[hostRequest](text)
	switch {
	case err != nil:
	case r.Version != hostVersion:
		err = fmt.Errorf("version %d, want %d", r.Version, hostVersion)
	case (r.Do == hostTry) != (r.Services != nil):
		err = errors.New("services go with a try, and a try with services")
	case r.Services != nil && r.Services.Version != hostVersion:
		err = fmt.Errorf("services of version %d, want %d", r.Services.Version, hostVersion)
	}
	if err != nil {
		return hostRequest{}, fmt.Errorf("reading the request: %w", err)
	}
	return r, nil
}

// strict reads one JSON value and nothing besides.
func strict[T any](text []byte) (T, error) {
	var v T
	if len(text) > hostLimit {
		return v, errors.New("too long")
	}
	d := json.NewDecoder(bytes.NewReader(text))
	d.DisallowUnknownFields()
	if err := d.Decode(&v); err != nil {
		return v, err
	}
	if _, err := d.Token(); !errors.Is(err, io.EOF) {
		return v, errors.New("something follows")
	}
	return v, nil
}
