package ssf

import (
	"context"
	"fmt"
	"net/http"
	"sync"
	"time"

	"lazaret/quarantine/source/set"
)

const (
	keysFresh = time.Hour        // keys are fetched anew when they are older
	keysStale = 24 * time.Hour   // and serve so long when they cannot be
	keysPause = time.Minute      // between two attempts to fetch them
	jwksBytes = maxAnswer        // of a key set
	discovery = 10 * time.Minute // how long a transmitter's configuration is kept
)

// keyring is an issuer's keys, given or fetched.
type keyring struct {
	given  set.Keys // if not empty, nothing is fetched
	locate func(ctx context.Context) (string, error)
	client *client
	now    func() time.Time
	failed func(error)     // told of every attempt that failed
	life   context.Context // of the stream: attempts end with it

	mu       sync.Mutex
	keys     set.Keys
	fetched  time.Time     // when keys were
	tried    time.Time     // when it was tried last
	err      error         // of that attempt
	fetching chan struct{} // closed when the present attempt ends; nil: there is none
}

// find returns keys, with the one of that kid if the issuer has it. Strangers can ask for
// any kid: they cause one request a minute at most, and nobody whose key is known waits for it.
func (k *keyring) find(ctx context.Context, kid string) (set.Keys, error) {
	if k.given.Len() > 0 {
		return k.given, nil
	}
	k.mu.Lock()
	now := k.now()
	if k.keys.Has(kid) && now.Sub(k.fetched) < keysFresh {
		defer k.mu.Unlock()
		return k.keys, nil
	}
	if err := k.life.Err(); err != nil {
		defer k.mu.Unlock()
		return set.Keys{}, fmt.Errorf("the stream ended: %w", err)
	}
	if k.fetching == nil && (now.Sub(k.tried) >= keysPause || now.Before(k.tried)) {
		k.tried, k.fetching = now, make(chan struct{})
		go k.refresh(now, k.fetching) // ends within callTime, and with life
	}
	fetching := k.fetching
	k.mu.Unlock()
	if fetching != nil {
		select {
		case <-fetching:
		case <-ctx.Done():
			return set.Keys{}, ctx.Err()
		}
	}
	return k.known(kid)
}

// refresh fetches the keys. The one who caused it may go away; the next one wants them, too.
func (k *keyring) refresh(now time.Time, done chan struct{}) {
	keys, err := k.fetch(k.life)
	if err != nil && k.life.Err() == nil {
		k.failed(fmt.Errorf("fetching the issuer's keys: %w", err))
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.err = err; err == nil {
		k.keys, k.fetched = keys, now
	}
	k.fetching = nil
	close(done)
}

// end waits for an attempt that is under way. life has ended by then.
func (k *keyring) end() {
	k.mu.Lock()
	fetching := k.fetching
	k.mu.Unlock()
	if fetching != nil {
		<-fetching
	}
}

// known is what there is after an attempt.
func (k *keyring) known(kid string) (set.Keys, error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	switch {
	case k.err == nil:
		return k.keys, nil // fetched less than a minute ago
	case k.keys.Has(kid) && k.now().Sub(k.fetched) < keysStale:
		return k.keys, nil
	}
	return set.Keys{}, fmt.Errorf("fetching the issuer's keys: %w", k.err)
}

func (k *keyring) fetch(ctx context.Context) (_ set.Keys, err error) {
	defer func() {
		if p := recover(); p != nil { // of what others wrote
			err = fmt.Errorf("reading the keys: %v", p)
		}
	}()
	ctx, cancel := context.WithTimeout(ctx, callTime)
	defer cancel()
	at, err := k.locate(ctx)
	if err != nil {
		return set.Keys{}, err
	}
	var raw []byte
	if err := k.client.send(ctx, http.MethodGet, at, "", nil, &raw, jwksBytes); err != nil {
		return set.Keys{}, err
	}
	return set.ParseKeys(raw)
}
