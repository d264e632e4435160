package cmp

// Information types (RFC 9810, appendix F), and our own, built and read by functions of
// this package.
var (
	IDCACerts         OID // id-it-caCerts
	IDImplicitConfirm OID // id-it-implicitConfirm
	IDConfirmWait     OID // id-it-confirmWaitTime
	IDWelcome         OID // Welcome as JSON
	IDSettings        OID // Settings as JSON
	IDExporter        OID // RFC 9266 tls-exporter
	IDProof           OID // proof of the WireGuard key
)

// Find returns the value of the one entry of a type; false if there is none. Parse refuses
// a type given twice in one list.
func Find(infos []Info, t OID) ([]byte, bool) { panic("not yet") }

// Builders and readers of single entries. A reader's bool says whether the entry is there;
// an entry that is there and wrong is an error.
func CACertsInfo(certs [][]byte) Info                      { panic("not yet") } // without certs: the request
func ReadCACerts(infos []Info) ([][]byte, bool, error)     { panic("not yet") }
func WelcomeInfo(w Welcome) (Info, error)                  { panic("not yet") }
func ReadWelcome(infos []Info) (Welcome, bool, error)      { panic("not yet") }
func SettingsInfo(s Settings) (Info, error)                { panic("not yet") }
func ReadSettings(infos []Info) (Settings, bool, error)    { panic("not yet") }
func ExporterInfo(material []byte) Info                    { panic("not yet") }
func ReadExporter(infos []Info) ([]byte, bool, error)      { panic("not yet") }
func ProofInfo(p Proof) Info                               { panic("not yet") }
func ReadProof(infos []Info) (p Proof, ok bool, err error) { panic("not yet") }

// ExporterLabel is the label of RFC 9266; context nil, 32 bytes.
const ExporterLabel = "EXPORTER-Channel-Binding"

// Proof says that the sender holds the private half of its WireGuard key.
type Proof struct {
	KeyID string // Welcome.ProofKeyID
	MAC   []byte
}

// ProofInput is what the proof binds together.
type ProofInput struct {
	TransactionID []byte
	SPKI          []byte   // DER SubjectPublicKeyInfo asked to be certified
	WireGuard     [32]byte // public key
	Reference     string   // the OTP's reference; in KUR the sender's device ID... see MakeProof
}

// MakeProof computes the proof from the X25519 secret shared by the WireGuard key and the
// gateway's proof key: HMAC-SHA-256 keyed by HKDF-SHA-256(shared, salt transaction ID, info
// "lazaret wireguard proof") over SHA-256(SPKI), WireGuard key, reference.
func MakeProof(shared []byte, in ProofInput) []byte { panic("not yet") }

// VerifyProof compares in constant time.
func VerifyProof(shared, mac []byte, in ProofInput) bool { panic("not yet") }

// WireGuardURI is the subjectAltName URI that carries a WireGuard key, and
// ParseWireGuardURI reads it: "wireguard:" and base64url without padding.
func WireGuardURI(key [32]byte) string                 { panic("not yet") }
func ParseWireGuardURI(uri string) ([32]byte, error)   { panic("not yet") }
func FindWireGuardKey(uris []string) ([32]byte, error) { panic("not yet") } // exactly one among uris
