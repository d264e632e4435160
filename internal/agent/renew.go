package agent

import (
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"net/http/httptrace"
	"time"

	"lazaret/enroll/client"
)

// renewals renews the certificate at two thirds of its life, and on failure again at
// intervals that shrink with what is left. A renewal that was cut short goes on at once:
// the gateway may have taken it, and know the old certificate no more.
func (a *Agent) renewals(ctx context.Context) error {
	var failures int
	for {
		st := a.snapshot()
		cert, err := a.store.certificate(st)
		if err != nil {
			return err
		}
		unfinished, err := a.store.has(nextKeyFile)
		if err != nil {
			return err
		}
		due := max(time.Until(renewAt(st.Obtained, cert.Leaf)), time.Second)
		if unfinished {
			due = 0
		}
		if failures > 0 {
			due = renewAgain(time.Until(cert.Leaf.NotAfter), unfinished, failures)
		}
		if err := a.renewalDue(ctx, due); err != nil {
			return err
		}
		err = a.renew(ctx)
		switch {
		case err == nil:
			failures = 0
		case ctx.Err() != nil:
			return ctx.Err()
		default:
			failures++
			a.log.Warn("renewing the certificate", "err", err, "expires", cert.Leaf.NotAfter)
		}
	}
}

// renewalDue waits until it is time, or somebody orders a renewal.
func (a *Agent) renewalDue(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-t.C:
	case <-a.renewNow:
	}
	return nil
}

// renewAt is two thirds into the life of a certificate that came at that time. Its
// NotBefore lies further back, for devices whose clock is behind, and would not do.
func renewAt(obtained time.Time, leaf *x509.Certificate) time.Time {
	if obtained.Before(leaf.NotBefore) || obtained.After(leaf.NotAfter) {
		obtained = leaf.NotBefore
	}
	return obtained.Add(leaf.NotAfter.Sub(obtained) * 2 / 3)
}

// renewFirst is how long to wait after a renewal that failed, at the least.
const renewFirst = 5 * time.Second

// renewAgain is how long to wait after so many renewals that failed one after the other,
// with so much of the certificate's life left. One that was begun, whose answer may be
// lost, is tried again sooner. Past the certificate's end only a new one-time password
// helps.
func renewAgain(left time.Duration, unfinished bool, failures int) time.Duration {
	if left <= 0 {
		return 10 * time.Minute
	}
	d := min(max(left/20, renewFirst), time.Hour)
	if unfinished {
		d = min(d, renewFirst<<min(failures-1, 10))
	}
	return d
}

// renew exchanges the certificate for one with a new key, and asks for a new key of the
// tunnel; the old ones stay until the new ones are safe.
func (a *Agent) renew(ctx context.Context) error {
	a.renewing.Store(true)
	defer a.renewing.Store(false)
	st := a.snapshot()
	current, err := st.result()
	if err != nil {
		return err
	}
	key, err := a.store.key(keyFile, nil)
	if err != nil {
		return err
	}
	c, err := client.New(client.Config{Server: st.Server, Log: a.log, Attempts: 3})
	if err != nil {
		return err
	}
	ctx = httptrace.WithClientTrace(ctx, &httptrace.ClientTrace{WroteHeaders: a.noteAsked})
	if _, err := c.Renew(ctx, current, key, &renewal{agent: a}); err != nil && !errors.Is(err, client.ErrUnconfirmed) {
		return err
	}
	a.step("confirmed")
	a.log.Info("certificate renewed")
	return a.connect() // which tells whoever waits
}

// noteAsked notes that a request for the next keys goes out: from now on the gateway may
// hold them.
func (a *Agent) noteAsked() {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.keys.asked = !a.keys.next.IsZero()
}

// renewal keeps what a renewal makes.
type renewal struct{ agent *Agent }

// Keys makes the two next keys, the tunnel's first: where only the certificate's is on
// the disk, the tunnel has moved to its own already, and a renewal whose answer was lost
// must ask with the keys it was begun with.
func (r *renewal) Keys(context.Context) (client.Keys, error) {
	a := r.agent
	begun, err := a.store.has(nextKeyFile)
	if err != nil {
		return client.Keys{}, err
	}
	moving, err := a.store.has(nextWireguard)
	if err != nil {
		return client.Keys{}, err
	}
	name := nextWireguard
	if begun && !moving {
		name = wireguardFile
	}
	wg, err := a.store.wireguard(name)
	if err != nil {
		return client.Keys{}, err
	}
	a.step("tunnel key")
	key, err := a.store.key(nextKeyFile, newCertificateKey)
	if err != nil {
		return client.Keys{}, err
	}
	a.step("both keys")
	if name == nextWireguard {
		a.mu.Lock()
		a.keys.next = wg
		a.mu.Unlock()
	}
	return a.store.withWireGuard(key, name)
}

// Save keeps the certificate, then its key: between the two the start-up check of
// certificate and key finds the next key by itself.
func (r *renewal) Save(_ context.Context, res *client.Result) error {
	a := r.agent
	a.step("answered")
	a.mu.Lock()
	defer a.mu.Unlock()
	next := a.state.with(res)
	if len(next.Listeners) == 0 {
		next.Listeners = a.state.Listeners
	}
	if err := a.store.save(next); err != nil {
		return err
	}
	a.state = next
	a.step("certificate")
	if err := a.store.settleKey(next); err != nil {
		return fmt.Errorf("putting the certificate's key in place: %w", err)
	}
	a.step("certificate key")
	return nil
}

// step tells a test how far a renewal is.
func (a *Agent) step(name string) {
	if a.config.Step != nil {
		a.config.Step(name)
	}
}
