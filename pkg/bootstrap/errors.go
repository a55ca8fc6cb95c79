package bootstrap

import (
	"errors"
	"fmt"
)

// Code is the class of a failure and the exit code of `nodeagent join`. Codes never change.
type Code int

// The codes. docs/join.md has the cause and remedy of each.
const (
	CodeHost        Code = 10 // this machine cannot be a node
	CodeReach       Code = 11 // no API server answers
	CodeTrust       Code = 12 // another cluster answered than the one that was meant
	CodeToken       Code = 13 // the token is malformed, unknown, expired or has no right to sign
	CodeClusterInfo Code = 14 // cluster-info is missing or unsigned
	CodeCertificate Code = 15 // the request for a certificate is pending, denied or failed
	CodeNameTaken   Code = 16 // a Ready node has this name
	CodeVersion     Code = 17 // the API server is too old or too new
	CodeProxy       Code = 18 // the node may not read EndpointSlices
	CodeNotReady    Code = 19 // the node is not Ready in time
	CodeClock       Code = 20 // this machine's clock differs
)

// Error is a failure with its class and the one thing to do next.
type Error struct {
	Code Code
	Err  error
	// Next is a command or a sentence; never empty.
	Next string
}

func (e *Error) Error() string { return e.Err.Error() + "\nnext: " + e.Next }

// Unwrap returns the cause.
func (e *Error) Unwrap() error { return e.Err }

func fail(code Code, next, format string, args ...any) *Error {
	return &Error{Code: code, Err: fmt.Errorf(format, args...), Next: next}
}

// ExitCode is 0 for nil, the code of an Error, else 1.
func ExitCode(err error) int {
	var e *Error
	switch {
	case err == nil:
		return 0
	case errors.As(err, &e):
		return int(e.Code)
	}
	return 1
}
