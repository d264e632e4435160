package store

import (
	"encoding/hex"
	"encoding/json"
	"fmt"
	"strconv"
	"strings"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"

	"lazaret/quarantine"
	"lazaret/quarantine/tunnel"
)

// Everything the gate watches lies under state/; a transaction that writes there also
// writes markKey, whose revision is therefore the last one the watch has to reach.
const (
	statePrefix   = "state/"
	devicePrefix  = statePrefix + "device/"
	poolPrefix    = statePrefix + "pool/"
	profilePrefix = statePrefix + "profile/"
	sourcePrefix  = statePrefix + "source/"
	setPrefix     = statePrefix + "set/"
	conductPrefix = statePrefix + "conduct/" // holds the one that is named conductName
	markKey       = statePrefix + "mark"

	otpPrefix       = "otp/"
	referencePrefix = "reference/" // every reference ever used, never deleted
	tokenPrefix     = "token/"
	settingPrefix   = "setting/"
	secretPrefix    = "secret/"
	outboxPrefix    = "outbox/"
	gatewayPrefix   = "gateway/"

	// Unique indexes: the value is the id of the device, or the token's name.
	nameIndex  = "index/name/"
	seatIndex  = "index/seat/"
	keyIndex   = "index/key/"       // SHA-256 of the certificate's public key
	wgIndex    = "index/wireguard/" // current and next key
	tokenIndex = "index/token/"

	freePrefix = "free/" // freed seats, oldest first

	timeKey       = "meta/time"  // highest time ever stored
	seatKey       = "meta/seat"  // highest seat ever given
	markNumberKey = "meta/mark"  // highest firewall mark ever given
	poolsKey      = "meta/pools" // written with every change of a pool
	setsKey       = "meta/sets"  // written with every change of a policy set or of the conduct
	versionPrefix = "version/"   // highest version ever given of a policy set, by its name; never deleted
	epochKey      = "meta/epoch" // counts clock resets
	headKey       = "meta/audit" // head of the audit log
)

func deviceKey(id quarantine.ID) string     { return devicePrefix + string(id) }
func nameKey(name string) string            { return nameIndex + strings.ToLower(name) }
func seatIndexKey(n quarantine.Seat) string { return fmt.Sprintf("%s%010d", seatIndex, n) }
func spkiKey(sum [32]byte) string           { return keyIndex + hex.EncodeToString(sum[:]) }
func wireguardKey(k tunnel.Key) string      { return wgIndex + hex.EncodeToString(k[:]) }
func tokenSumKey(sum [32]byte) string       { return tokenIndex + hex.EncodeToString(sum[:]) }

// freeKey orders freed seats by time.
func freeKey(at time.Time, n quarantine.Seat) string {
	return freePrefix + encodeTime(at) + fmt.Sprintf("-%010d", n)
}

// encodeTime has a fixed width, so that etcd's comparison of bytes compares times.
// Times before 1970 are 1970.
func encodeTime(t time.Time) string {
	return fmt.Sprintf("%020d", max(0, t.UnixNano()))
}

func decodeTime(b []byte) (time.Time, error) {
	n, err := strconv.ParseInt(string(b), 10, 64)
	if err != nil {
		return time.Time{}, fmt.Errorf("reading stored time: %w", err)
	}
	return time.Unix(0, n).UTC(), nil
}

// checkName refuses names that cannot be a key, or would not print.
func checkName(what, name string) error {
	if name == "" || len(name) > 200 {
		return fmt.Errorf("%s name of %d bytes, want 1 to 200: %w", what, len(name), ErrInvalid)
	}
	for _, r := range name {
		if r < ' ' || r == 0x7f {
			return fmt.Errorf("%s name %q holds a control character: %w", what, name, ErrInvalid)
		}
	}
	return nil
}

func absent(key string) clientv3.Cmp {
	return clientv3.Compare(clientv3.CreateRevision(key), "=", 0)
}

func unchanged(key string, revision int64) clientv3.Cmp {
	return clientv3.Compare(clientv3.ModRevision(key), "=", revision)
}

// mustJSON encodes values of this package's own shapes, which cannot fail.
func mustJSON(v any) string {
	b, err := json.Marshal(v)
	if err != nil {
		panic(fmt.Sprintf("encoding %T: %v", v, err))
	}
	return string(b)
}
