package main

import (
	"context"
	"crypto/ecdsa"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"time"

	"github.com/spf13/cobra"

	"lazaret/appliance/claim"
)

// claimTries is how often a claim whose connection broke is taken up again.
const claimTries = 5

// Variables for tests.
var (
	claimPause = 2 * time.Second // between two tries
	keptTries  = 15              // how often a machine is told that the credential is saved
)

// exchange claims the machine, keeps the credential, and says so to the machine. A broken
// connection is taken up with the same request.
func (s *session) exchange(ctx context.Context, w io.Writer, address string, code claim.Code, text []byte, key *ecdsa.PrivateKey) (claimed, error) {
	for try := 1; ; try++ {
		out, err := s.exchangeOnce(ctx, w, address, code, text, key, try == 1)
		busy := false
		if refusal, ok := errors.AsType[*claim.Refusal](err); ok {
			busy = refusal.Kind == claim.Busy
		}
		if err == nil || errors.Is(err, errUnheard) || try == claimTries || ctx.Err() != nil || !busy && !errors.Is(err, claim.ErrLost) {
			return out, err
		}
		fmt.Fprintf(w, "%v; trying again\n", err)
		select {
		case <-ctx.Done():
			return out, ctx.Err()
		case <-time.After(claimPause):
		}
	}
}

func (s *session) exchangeOnce(ctx context.Context, w io.Writer, address string, code claim.Code, text []byte, key *ecdsa.PrivateKey, first bool) (claimed, error) {
	k, err := claim.Dial(ctx, address, code, text, func(print string) {
		if first {
			fmt.Fprintf(w, "certificate, SHA-256: %s\n", print)
		}
	})
	if err != nil {
		return claimed{}, err
	}
	defer k.Close()
	if first {
		fmt.Fprintln(w, "the machine knows the code; claiming it")
		if err := s.savePending(address, text, key); err != nil {
			return claimed{}, err
		}
	}
	begin := time.Now()
	a, err := k.Claim(ctx, func(step string) { fmt.Fprintf(w, "%6s  %s\n", time.Since(begin).Round(100*time.Millisecond), step) })
	if err != nil {
		return claimed{}, err
	}
	c, err := claim.CredentialOf(a, key)
	if err != nil {
		return claimed{}, fmt.Errorf("reading the machine's answer: %w", err)
	}
	out := claimed{Dir: s.dir, Name: a.Name, API: a.API, Enroll: a.Enroll, RootSHA256: a.RootSHA256, Fingerprint: k.Fingerprint()}
	if a.Token != "" {
		out.TokenFile = filepath.Join(s.dir, "management-token")
	}
	if err := s.saveCredential(c, a.Token); err != nil {
		return out, err
	}
	if err := s.sayKept(ctx, w, k, address, code, text); err != nil {
		return out, err
	}
	return out, nil
}

// errUnheard says that the claim may have come to nothing: what there is of it stays.
var errUnheard = errors.New("the machine did not confirm that it heard that the credential is saved")

// sayKept tells the machine that the credential is saved until it confirms that, or answers
// as the gateway it has become: it throws away what it made if it never hears so, and its
// word that it did is lost as easily as ours.
func (s *session) sayKept(ctx context.Context, w io.Writer, k *claim.Conn, address string, code claim.Code, text []byte) error {
	err := k.Kept(ctx)
	for try := 1; err != nil; try++ {
		refusal, refused := errors.AsType[*claim.Refusal](err)
		switch {
		case refused && refusal.Kind == claim.Claimed:
			return fmt.Errorf("the machine has thrown away what it made: the credential in %s is of no use; remove it, and claim the machine again: %w", s.dir, err)
		case refused && refusal.Kind != claim.Busy && refusal.Kind != claim.Broken, ctx.Err() != nil:
			return fmt.Errorf("the credential is in %s, but the machine did not take that in: %w", s.dir, err)
		case try == keptTries:
			return fmt.Errorf("%w (the last try: %w)", errUnheard, err)
		case try == 1:
			fmt.Fprintf(w, "the machine did not confirm that it heard: %v; telling it again\n", err)
		}
		select {
		case <-ctx.Done():
			continue
		case <-time.After(claimPause):
		}
		if !forAdministrator(text) && s.answers(ctx) {
			fmt.Fprintln(w, "it heard: the gateway answers")
			return nil
		}
		if k, err = claim.Dial(ctx, address, code, text, nil); err == nil {
			err = k.Kept(ctx)
			k.Close()
		}
	}
	return nil
}

// answers says whether the API that the credential is for is there: whoever shows a
// certificate of the gateway's own root is the gateway.
func (s *session) answers(ctx context.Context) bool {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	of := &session{dir: s.dir} // whatever other server was named
	c, err := of.open()
	if err != nil {
		return false
	}
	defer c.http.CloseIdleConnections()
	req, err := http.NewRequestWithContext(ctx, http.MethodHead, c.base+"/", nil)
	if err != nil {
		return false
	}
	resp, err := c.http.Do(req)
	if err == nil {
		resp.Body.Close()
	}
	return err == nil
}

// holds says whether the credential in the directory is of this key: of the claim under way.
func (s *session) holds(key *ecdsa.PrivateKey) bool {
	text, err := os.ReadFile(filepath.Join(s.dir, "admin-key.pem"))
	if err != nil {
		return false
	}
	block, _ := pem.Decode(text)
	if block == nil {
		return false
	}
	any, err := x509.ParsePKCS8PrivateKey(block.Bytes)
	have, ok := any.(*ecdsa.PrivateKey)
	return err == nil && ok && have.Equal(key)
}

// claimedBefore ends a claim of which only the confirmation was missing.
func (s *session) claimedBefore(cmd *cobra.Command) error {
	if err := s.dropPending(); err != nil {
		return err
	}
	fmt.Fprintf(cmd.ErrOrStderr(), "the machine is claimed: the gateway answers, and the credential is in %s\n", s.dir)
	return nil
}
