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

	mu      sync.Mutex
	keys    set.Keys
	fetched time.Time // when keys were
	tried   time.Time // when it was tried last
	err     error     // of that attempt
}

// find returns keys, with the one of that kid if the issuer has it. Strangers can ask for
// any kid: they cause one request a minute at most.
func (k *keyring) find(ctx context.Context, kid string) (set.Keys, error) {
	if k.given.Len() > 0 {
		return k.given, nil
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	now := k.now()
	have := k.keys.Has(kid)
	if have && now.Sub(k.fetched) < keysFresh {
		return k.keys, nil
	}
	if now.Sub(k.tried) >= keysPause || now.Before(k.tried) {
		k.tried = now
		keys, err := k.fetch(ctx)
		if k.err = err; err == nil {
			k.keys, k.fetched = keys, now
			return keys, nil
		}
	}
	switch {
	case k.err == nil:
		return k.keys, nil // fetched less than a minute ago
	case have && now.Sub(k.fetched) < keysStale:
		return k.keys, nil
	}
	return set.Keys{}, fmt.Errorf("fetching the issuer's keys: %w", k.err)
}

func (k *keyring) fetch(ctx context.Context) (set.Keys, error) {
	// The caller may go away; the keys are wanted by the next one, too.
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), callTime)
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
