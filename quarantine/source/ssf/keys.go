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
	if k.fetching == nil && (now.Sub(k.tried) >= keysPause || now.Before(k.tried)) {
		k.tried, k.fetching = now, make(chan struct{})
		go k.refresh(context.WithoutCancel(ctx), now, k.fetching) // ends within callTime
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
func (k *keyring) refresh(ctx context.Context, now time.Time, done chan struct{}) {
	keys, err := k.fetch(ctx)
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.err = err; err == nil {
		k.keys, k.fetched = keys, now
	}
	k.fetching = nil
	close(done)
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

func (k *keyring) fetch(ctx context.Context) (set.Keys, error) {
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
