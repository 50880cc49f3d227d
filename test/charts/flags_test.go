package charts

import (
	"errors"
	"os/exec"
	"regexp"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
)

// programs are the packages of the programs, by container.
func programs() map[string]string {
	return map[string]string{
		"juicefs-csi-controller": "./services/controller/cmd/juicefs-csi-controller",
		"juicefs-csi-dashboard":  "./services/dashboard/cmd/juicefs-csi-dashboard",
		"juicefs-csi-node":       "./services/node/cmd/juicefs-csi-node",
		"mountmgr":               "./services/mountmgr/cmd/juicefs-mountmgr",
		"fdvault":                "./services/mountmgr/cmd/juicefs-fdvault",
	}
}

// TestProgramsKnowTheirArguments asks each program for its flags: one that it
// does not know would keep it from starting.
func TestProgramsKnowTheirArguments(t *testing.T) {
	containers := map[string]corev1.Container{}
	for _, spec := range podSpecs(t, decode(t, render(t, umbrella, ""))) {
		for _, container := range spec.Containers {
			containers[container.Name] = container
		}
	}
	for name, container := range containers {
		t.Run(name, func(t *testing.T) {
			known := flagsOf(t, programs()[name])
			for _, argument := range container.Args {
				flag, _, hasValue := strings.Cut(strings.TrimPrefix(argument, "--"), "=")
				if !known[flag] || !hasValue {
					t.Errorf("%s is not understood", argument)
				}
			}
		})
	}
}

// TestArgumentsAreExpanded: Kubernetes leaves $(NAME) as it is when the
// container has no variable NAME.
func TestArgumentsAreExpanded(t *testing.T) {
	reference := regexp.MustCompile(`\$\(([^)]*)\)`)
	for name, spec := range podSpecs(t, decode(t, render(t, umbrella, ""))) {
		for _, container := range spec.Containers {
			defined := map[string]bool{}
			for _, variable := range container.Env {
				defined[variable.Name] = true
			}
			for _, match := range reference.FindAllStringSubmatch(strings.Join(container.Args, " "), -1) {
				if !defined[match[1]] {
					t.Errorf("%s/%s: %s is not defined", name, container.Name, match[0])
				}
			}
		}
	}
}

// flagsOf reads the flags in the help text of a program.
func flagsOf(t *testing.T, program string) map[string]bool {
	t.Helper()
	command := exec.CommandContext(t.Context(), "go", "run", program, "--help")
	command.Dir = "../.."
	output, err := command.CombinedOutput()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		t.Fatalf("run %s: %v", program, err)
	}
	flags := map[string]bool{}
	for _, match := range regexp.MustCompile(`(?m)^\s+(?:-\w, )?--?([a-z][a-z0-9-]+)`).FindAllSubmatch(output, -1) {
		flags[string(match[1])] = true
	}
	if len(flags) == 0 {
		t.Fatalf("%s --help lists no flags: %v\n%s", program, err, output)
	}
	return flags
}
