package main

import (
	"errors"
	"os/exec"
)

// exitError is the failure of a command that was run for the user, and that
// has said itself what was wrong.
type exitError struct{ code int }

func (e exitError) Error() string { return "command failed" }

// quietExit keeps only the exit code of a command that ran.
func quietExit(err error) error {
	var exit *exec.ExitError
	if errors.As(err, &exit) && exit.ExitCode() > 0 {
		return exitError{code: exit.ExitCode()}
	}
	return err
}

// exitCode tells how to end, and whether the error still has to be shown.
func exitCode(err error) (code int, show bool) {
	if err == nil {
		return 0, false
	}
	var exit exitError
	if errors.As(err, &exit) {
		return exit.code, false
	}
	return 1, true
}
