package claim

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"fmt"
	"reflect"

	"lazaret/appliance"
)

// open proves the machine's knowledge of the code, and what its seed said. It tells nothing
// about the code to whoever does not have it, and changes nothing.
func (k *Keeper) open(x *Exchange) (nonce, proof Sum, seed []byte, err error) {
	if x == nil || len(x.Machine) != 0 {
		return nil, nil, nil, &Refusal{Kind: Invalid, What: "no exchange"}
	}
	nonce = make(Sum, sumLength)
	rand.Read(nonce)
	whole := *x
	whole.Machine = nonce
	if seed, err = k.seedText(); err != nil {
		return nil, nil, nil, err
	}
	if proof, err = prove(k.cfg.Code, labelMachine, whole, seed); err != nil {
		return nil, nil, nil, &Refusal{Kind: Invalid, What: err.Error()}
	}
	return nonce, proof, seed, nil
}

// seedText is what a machine says of its seed when it proves that it knows the code: the
// proof covers it, so that nobody between the two can change or leave out what the claimant
// takes over from it. Without a seed it is empty.
func (k *Keeper) seedText() ([]byte, error) {
	if k.cfg.About == nil || k.cfg.Administrator {
		return nil, nil
	}
	s := k.cfg.About().Setup
	if reflect.ValueOf(s).IsZero() {
		return nil, nil
	}
	text, err := json.Marshal(s)
	if err != nil {
		return nil, fmt.Errorf("writing the seed's set-up: %w", err)
	}
	return text, nil
}

// AskSeed has a machine, host:port, prove that it knows the code, and returns the set-up that
// its seed said, which may be empty or half of one. Errors and seen are as for Dial.
func AskSeed(ctx context.Context, address string, c Code, seen func(fingerprint string)) (appliance.Setup, error) {
	none := make([]byte, sumLength) // no request will follow
	rand.Read(none)
	k, err := Dial(ctx, address, c, none, seen)
	if err != nil {
		return appliance.Setup{}, err
	}
	defer k.Close()
	var s appliance.Setup
	if len(k.seed) == 0 {
		return s, nil
	}
	if err := strict(k.seed, &s); err != nil {
		return appliance.Setup{}, fmt.Errorf("reading what the machine's seed said: %w", err)
	}
	if err := s.CheckGiven(); err != nil {
		return appliance.Setup{}, fmt.Errorf("the machine's seed has faults:\n%w", err)
	}
	return s, nil
}
