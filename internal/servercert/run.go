package servercert

import (
	"bytes"
	"context"
	"crypto/sha256"
	"crypto/x509"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode"

	"golang.org/x/crypto/acme"
)

// How long Run sleeps at most: timers stand still while a machine is paused, and the wall
// clock does not.
const (
	maxWait   = time.Hour
	storeWait = time.Minute // where the store is at fault
)

// Run asks for certificates by ACME when they are due, until ctx ends.
func (k *Keeper) Run(ctx context.Context) error {
	for {
		timer := time.NewTimer(k.tick(ctx))
		select {
		case <-ctx.Done():
			timer.Stop()
			return nil
		case <-k.kick:
			timer.Stop()
		case <-timer.C:
		}
	}
}

// tick makes an attempt if one is due, and returns how long to wait until the next look.
func (k *Keeper) tick(ctx context.Context) time.Duration {
	most := maxWait
	if k.again(ctx) {
		most = storeWait
	}
	if err := k.rectify(ctx); err != nil {
		k.config.Log.Error("server certificate by ACME", "err", err)
		return storeWait
	}
	a := k.acme.Load()
	if a == nil {
		return most
	}
	if wait := k.due(a).Sub(k.now()); wait > 0 {
		return min(wait, most)
	}
	if err := k.attempt(ctx, a); err != nil && ctx.Err() == nil {
		k.config.Log.Error("server certificate by ACME", "err", err)
		return storeWait // what the server is asked is bounded by Next
	}
	return 0
}

// again loads anew what the store could not give, and says whether it still cannot.
func (k *Keeper) again(ctx context.Context) bool {
	if !k.noShown.Load().passing() && !k.noACME.Load().passing() {
		return false
	}
	k.changes.Lock()
	defer k.changes.Unlock()
	k.reload(ctx)
	return k.noShown.Load().passing() || k.noACME.Load().passing()
}

// rectify counts a pause from now where the last attempt was made by a clock that was ahead:
// else it would last for as long as that was.
func (k *Keeper) rectify(ctx context.Context) error {
	k.changes.Lock()
	defer k.changes.Unlock()
	a, now := k.acme.Load(), k.now()
	if a == nil || !a.Tried.After(now) && !a.Next.After(now.Add(mostAfter)) {
		return nil
	}
	next := *a
	next.Tried = now
	if !a.Next.IsZero() {
		next.Next = now.Add(max(0, min(a.Next.Sub(a.Tried), mostAfter)))
	}
	k.config.Log.Warn("the last attempt to get a server certificate was made by a clock that was ahead", "tried", a.Tried, "next", next.Next)
	if err := k.put(ctx, blobACME, next); err != nil {
		return err
	}
	k.acme.Store(&next)
	return nil
}

// due says when the next attempt is.
func (k *Keeper) due(a *account) time.Time {
	s := k.shown.Load()
	if a.Forced || s == nil || s.saved.Source != ACME || !k.covers(a, s.leaf()) {
		return a.Next
	}
	if s.saved.Renew.After(a.Next) {
		return s.saved.Renew
	}
	return a.Next
}

// covers says whether a certificate is what is set now.
func (k *Keeper) covers(a *account, leaf *x509.Certificate) bool {
	names, err := k.wanted(a.Settings.Names)
	return err == nil && !slices.ContainsFunc(names, func(n string) bool { return leaf.VerifyHostname(n) != nil })
}

// Waits between attempts.
const (
	firstWait = 15 * time.Minute
	mostWait  = 24 * time.Hour
	mostAfter = 7 * 24 * time.Hour // that a server may ask for
)

// pause is how long to wait after so many failures in a row: at first so long that no more than
// five attempts fall into an hour, which public servers allow, in the end a day.
func (k *Keeper) pause(failures int) time.Duration {
	d := mostWait
	if failures <= 7 {
		d = min(firstWait<<(failures-1), mostWait)
	}
	return d + time.Duration(k.config.Share()*float64(d)/4)
}

// attempt asks once. What stands in the way of another is written before the first request,
// so that no crash makes it ask without end.
func (k *Keeper) attempt(ctx context.Context, was *account) error {
	a, err := k.begin(ctx, was)
	if err != nil || a == nil {
		return err
	}
	defer k.asking.Store(false)
	b, account, err := k.ask(ctx, *a)
	if ctx.Err() != nil {
		return ctx.Err() // the next start goes on when the pause is over
	}
	k.changes.Lock()
	defer k.changes.Unlock()
	now := k.acme.Load()
	if now == nil || !now.asks(a.Settings) || !bytes.Equal(now.Key, a.Key) {
		return nil // another certificate is wanted by now
	}
	next := *now
	if account != "" {
		next.URL = account
	}
	if err == nil {
		err = k.taken(ctx, b, now.Settings)
	}
	if err != nil {
		next.Problem = clip(err.Error())
		if after := k.retryAfter(err); after > 0 {
			next.Next = latest(next.Next, k.now().Add(min(after, mostAfter)))
		}
		k.config.Log.Warn("server certificate not obtained", "directory", a.Settings.Directory, "err", err, "next", next.Next)
	} else {
		// Whatever life the server gives a certificate, it is not asked again at once.
		next.Problem, next.Failures, next.Next, next.Forced = "", 0, k.now().Add(firstWait), false
	}
	if err := k.put(ctx, blobACME, next); err != nil {
		return err
	}
	k.acme.Store(&next)
	return nil
}

func latest(a, b time.Time) time.Time {
	if a.After(b) {
		return a
	}
	return b
}

// begin notes that an attempt begins; nil where what is set has changed.
func (k *Keeper) begin(ctx context.Context, was *account) (*account, error) {
	k.changes.Lock()
	defer k.changes.Unlock()
	if k.acme.Load() != was {
		return nil, nil
	}
	next := *was
	next.Failures++
	next.Tried = k.now()
	next.Next = next.Tried.Add(k.pause(next.Failures))
	if next.Problem == "" {
		next.Problem = unfinished
	}
	if err := k.put(ctx, blobACME, next); err != nil {
		return nil, err
	}
	k.acme.Store(&next)
	k.asking.Store(true)
	return &next, nil
}

// unfinished is the problem of an attempt that was never answered. While one runs, it is none.
const unfinished = "the attempt was not finished"

// taken keeps and shows what was obtained.
func (k *Keeper) taken(ctx context.Context, b Bundle, s ACMESettings) error {
	leaf := b.Chain[0]
	detail := about(leaf)
	detail["directory"] = s.Directory
	if err := k.config.Note(ctx, "certificate.obtain", detail); err != nil {
		return err
	}
	if err := k.keep(ctx, b, saved{Source: ACME, For: s.For, Renew: k.renewal(b.Chain)}); err != nil {
		return err
	}
	k.config.Log.Info("server certificate obtained", "names", leaf.DNSNames, "issuer", leaf.Issuer.String(), "not_after", leaf.NotAfter)
	return nil
}

// about is what an audit entry says of a certificate.
func about(c *x509.Certificate) map[string]string {
	return map[string]string{"names": clip(strings.Join(c.DNSNames, " ")), "issuer": clip(c.Issuer.String()),
		"not_after": c.NotAfter.UTC().Format(time.RFC3339), "sha256": fmt.Sprintf("%x", sha256.Sum256(c.Raw))}
}

// renewal is when two thirds of a certificate's life are over, and a little more, so that
// gateways that were made together do not ask together. At least half of what is left of it
// goes by before.
func (k *Keeper) renewal(chain []*x509.Certificate) time.Time {
	begin, end := span(chain)
	life, now := end.Sub(begin), k.now()
	at := begin.Add(life*2/3 + time.Duration(k.config.Share()*float64(life)/24))
	return latest(at, now.Add(end.Sub(now)/2)).UTC()
}

// retryAfter is how long the server asks to be left alone, whatever its reason: seconds or a
// date (RFC 9110, section 10.2.3), and an hour where it was asked too often and names none.
func (k *Keeper) retryAfter(err error) time.Duration {
	e, ok := errors.AsType[*acme.Error](err)
	if !ok {
		return 0
	}
	said := e.Header.Get("Retry-After")
	if n, err := strconv.ParseUint(said, 10, 31); err == nil && n > 0 {
		return time.Duration(n) * time.Second
	}
	if at, err := http.ParseTime(said); err == nil && at.After(k.now()) {
		return at.Sub(k.now())
	}
	if e.StatusCode == http.StatusTooManyRequests || e.ProblemType == "urn:ietf:params:acme:error:rateLimited" {
		return time.Hour
	}
	return 0
}

// clip bounds a sentence that holds what others said, in bytes, and leaves no control
// characters in it.
func clip(s string) string {
	const most = 600
	s = strings.Map(func(r rune) rune {
		if unicode.IsControl(r) {
			return ' '
		}
		return r
	}, strings.ToValidUTF8(s, "?"))
	if len(s) > most {
		s = strings.ToValidUTF8(s[:most], "") + "..."
	}
	return s
}
