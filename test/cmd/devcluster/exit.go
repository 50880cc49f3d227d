package main

import (
	"errors"
	"fmt"
	"os/exec"
)

// exitError is the failure of a command that was run for the user, and that
// has said itself what was wrong.
type exitError struct{ code int }

func (e exitError) Error() string { return fmt.Sprintf("command ended with exit code %d", e.code) }

// quietExit keeps only the exit code of a command that ran.
func quietExit(err error) error {
	if exit, ok := errors.AsType[*exec.ExitError](err); ok && exit.ExitCode() > 0 {
		return exitError{code: exit.ExitCode()}
	}
	return err
}

// exitCode tells how to end, and whether the error still has to be shown.
func exitCode(err error) (code int, show bool) {
	if err == nil {
		return 0, false
	}
	if exit, ok := errors.AsType[exitError](err); ok {
		return exit.code, false
	}
	return 1, true
}
