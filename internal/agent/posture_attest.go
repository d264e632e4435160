package agent

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"sync"
	"time"

	"lazaret/internal/agentapi"
	"lazaret/internal/attest"
)

const (
	// attestTime bounds how long a report waits for the TPM's word. The first one may take
	// a slow TPM many seconds.
	attestTime = 20 * time.Second
	// attestPause is for how long a gateway that takes no attestation is not asked again.
	attestPause = 10 * time.Minute
)

// NoTPM as Config.TPM leaves the device's TPM alone.
const NoTPM = "none"

// voucher has the device's TPM vouch for reports; it finds the TPM at first use. Its zero
// value asks none.
type voucher struct {
	at  string       // Config.TPM
	log *slog.Logger // nil: ask none

	mu    sync.Mutex // guards what follows
	tpm   *attest.Device
	said  string    // what was logged last
	pause time.Time // no attestation before
}

// device opens the TPM; nil where there is none, or none is to be asked now.
func (v *voucher) device() *attest.Device {
	v.mu.Lock()
	defer v.mu.Unlock()
	if v.log == nil || v.at == NoTPM || time.Now().Before(v.pause) {
		return nil
	}
	if v.tpm == nil {
		tpm, err := attest.OpenDevice(v.at)
		if err != nil {
			v.tellLocked(err)
			return nil
		}
		v.tpm = tpm
	}
	return v.tpm
}

// tell logs why there is no attestation, once for each reason.
func (v *voucher) tell(err error) {
	v.mu.Lock()
	defer v.mu.Unlock()
	if errors.Is(err, attest.ErrOff) {
		v.pause = time.Now().Add(attestPause)
	}
	v.tellLocked(err)
}

func (v *voucher) tellLocked(err error) {
	if err == nil {
		v.said = ""
		return
	}
	if v.said != err.Error() {
		v.said = err.Error()
		v.log.Info("reporting without a TPM's word", "why", err)
	}
}

// vouch returns what the TPM says of these facts, nil for nothing: a report goes without.
func (v *voucher) vouch(ctx context.Context, api *gateway, device string, facts map[string]string) json.RawMessage {
	tpm := v.device()
	if tpm == nil {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, attestTime)
	defer cancel()
	out, err := evidence(ctx, api, tpm, device, facts)
	v.tell(err)
	return out
}

// evidence asks the gateway for a challenge, with the endorsement only if it wants that,
// and the TPM for its answer. No TPM is touched for a gateway that wants none of it.
func evidence(ctx context.Context, api *gateway, tpm *attest.Device, device string, facts map[string]string) (json.RawMessage, error) {
	if !tpm.Knows(device) {
		text, _, err := api.attest(ctx, attest.Knock)
		if err == nil {
			_, err = attest.ParseChallenge(text)
		}
		if !errors.Is(err, attest.ErrEndorse) {
			return nil, err
		}
	}
	q, channel, err := challenge(ctx, api, tpm, device, false)
	if errors.Is(err, attest.ErrEndorse) {
		q, channel, err = challenge(ctx, api, tpm, device, true)
	}
	if err != nil {
		return nil, err
	}
	return tpm.Answer(ctx, device, q, channel, facts)
}

func challenge(ctx context.Context, api *gateway, tpm *attest.Device, device string, endorsement bool) (attest.Question, []byte, error) {
	hello, err := tpm.Hello(ctx, device, endorsement)
	if err != nil {
		return attest.Question{}, nil, err
	}
	text, channel, err := api.attest(ctx, hello)
	if err != nil {
		return attest.Question{}, nil, err
	}
	q, err := attest.ParseChallenge(text)
	return q, channel, err
}

// attest sends a TPM's hello and returns the challenge, with the binding of the TLS
// connection that it came by.
func (g *gateway) attest(ctx context.Context, hello json.RawMessage) (text, channel []byte, err error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, g.base+agentapi.AttestPath, bytes.NewReader(hello))
	if err != nil {
		return nil, nil, err
	}
	req.Header.Set("Content-Type", "application/json")
	resp, err := g.http.Do(req)
	if err != nil {
		return nil, nil, fmt.Errorf("asking the gateway for a challenge: %w", err)
	}
	defer resp.Body.Close()
	text, err = io.ReadAll(io.LimitReader(resp.Body, 64<<10))
	if err != nil {
		return nil, nil, fmt.Errorf("reading the gateway's challenge: %w", err)
	}
	switch resp.StatusCode {
	case http.StatusOK:
	case http.StatusNotFound: // a gateway without, or before, attestation
		return nil, nil, attest.ErrOff
	default:
		return nil, nil, fmt.Errorf("the gateway gave no challenge but %d", resp.StatusCode)
	}
	channel, err = resp.TLS.ExportKeyingMaterial(agentapi.BindingLabel, nil, agentapi.BindingLength)
	return text, channel, err
}
