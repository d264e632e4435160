package poll

import (
	"crypto/sha256"
	"crypto/subtle"
	"io"
	"net/http"
	"sync"
)

// maxHook bounds a webhook's body.
const maxHook = 1 << 20

// Doors take products' own webhooks. None of them is signed: whoever holds the secret, or
// has read it on its way, could write anything. So a webhook carries no fact here: it makes
// the gateway ask the product, no more than every few seconds, and that is all it does. The
// zero Doors is ready and closed.
type Doors struct {
	mu  sync.RWMutex
	all map[string]door
}

type door struct {
	sum  [sha256.Size]byte // of the secret
	read func([]byte) ([]string, error)
	hint func(...string)
}

// Open lets webhooks of a source in that show the secret.
func (d *Doors) Open(name, secret string, read func([]byte) ([]string, error), hint func(...string)) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.all == nil {
		d.all = map[string]door{}
	}
	d.all[name] = door{sha256.Sum256([]byte(secret)), read, hint}
}

// Shut lets them in no longer.
func (d *Doors) Shut(name string) {
	d.mu.Lock()
	defer d.mu.Unlock()
	delete(d.all, name)
}

// ServeHTTP takes a POST whose path holds {name} and perhaps {secret}. The secret may come as
// the password of basic authentication, too, or in the header X-Webhook-Secret: products know
// one way or another. A source that is not there and a wrong secret get the same answer.
func (d *Doors) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	d.mu.RLock()
	one, ok := d.all[r.PathValue("name")]
	d.mu.RUnlock()
	secret := r.PathValue("secret")
	if secret == "" {
		secret = r.Header.Get("X-Webhook-Secret")
	}
	if secret == "" {
		_, secret, _ = r.BasicAuth()
	}
	sum := sha256.Sum256([]byte(secret))
	if subtle.ConstantTimeCompare(sum[:], one.sum[:]) != 1 || !ok {
		http.Error(w, "no such webhook", http.StatusNotFound)
		return
	}
	body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, maxHook))
	if err != nil {
		http.Error(w, "the body is too large", http.StatusRequestEntityTooLarge)
		return
	}
	ids, err := one.read(body)
	if err != nil {
		http.Error(w, "the body makes no sense", http.StatusBadRequest)
		return
	}
	one.hint(ids...)
	w.WriteHeader(http.StatusNoContent)
}
