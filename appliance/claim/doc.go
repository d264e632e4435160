// Package claim is how an unclaimed machine becomes somebody's. The machine shows a code on
// its screen; whoever types it has shown that they stand before that screen, and the machine
// has shown that it is the one they stand before.
//
// Three parts: the claimant (Dial), which lazaretctl is; the door (Door), an unprivileged
// process that speaks TLS, the protocol and a page with whoever comes; and the keeper
// (Keeper), in the machine's first process, which alone knows the code, checks every proof
// itself, and has the gateway made. Door and keeper speak over a pipe.
//
// The protocol, over one TLS 1.3 connection whose certificate nobody vouches for:
//
//	claimant                                     machine
//	nonce, SHA-256 of the request        -->
//	                                     <--     nonce, what a seed said, proof of the code and of that
//	request, proof of the code           -->
//	                                     <--     progress ..., answer with its MAC
//	proof that the answer is kept        -->
//
// Each proof is HMAC-SHA-256 with a key of its own (HKDF, RFC 5869, from the code) over the
// hash of the connection's exporter value (RFC 9266), both nonces and the request's hash. So
// somebody between, who has one connection to each side, can pass on neither proof. The code
// has 100 random bits: a proof tells nobody which it is, and guessing ends nowhere.
package claim
