// Package e2e holds the tests that try a whole gateway: lazaretd's two processes as the
// programs run them, in a lab of network namespaces, with devices that really enroll and
// really send packets. Each test says what must be seen from outside, over the API, over
// CMP and in the tunnel; none looks inside.
package e2e
