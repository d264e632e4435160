// Package update gives the machine another version of itself: bundles that are signed and
// channels that offer them, slots on the EFI system partition, and the rule by which a
// version that was started is kept or left.
//
// A bundle is a header and the slot's file, a unified kernel image:
//
//	"lazaret-update1\n"       16 bytes
//	length                    4 bytes, big endian; 1 to 64 Ki
//	manifest                  JSON, as long as that
//	signatures                1 byte, 1 to 4
//	  key id                  8 bytes: the first of the public key's SHA-256
//	  signature               64 bytes, Ed25519 (RFC 8032)
//	image                     as long as the manifest says
//
// A signature is over the ASCII text "lazaret update manifest 1", a zero byte, and the
// SHA-256 of everything before the signatures followed by the key ids of all of them. It is
// checked before the manifest is parsed; nothing of a bundle is used before that. Every
// signature by a key that is known must be right, and one at least must be by such a key.
// A channel is the same with other words and no image (channel.go).
package update
