package devcluster

import (
	"fmt"
	"path"
	"strings"

	"github.com/containerd/errdefs"
	"golang.org/x/mod/modfile"
	"golang.org/x/mod/semver"
)

const (
	kubernetesModule = "k8s.io/kubernetes"
	binaryModule     = "github.com/juicefs-csi/driver/test/devcluster/kubernetes"
)

// stagingVersion is the version under which the modules k8s.io/X of a
// Kubernetes release are published: v0.35.4 for v1.35.4.
func stagingVersion(version string) (string, error) {
	release := strings.TrimSuffix(version, semver.Prerelease(version))
	if semver.Major(version) != "v1" || strings.Count(release, ".") != 2 {
		return "", fmt.Errorf("Kubernetes version %q: want v1.MINOR.PATCH: %w", version, errdefs.ErrInvalidArgument)
	}
	return "v0" + strings.TrimPrefix(version, "v1"), nil
}

// rewriteModule makes the go.mod of our Kubernetes binary from the go.mod of
// k8s.io/kubernetes. That one pins its staging modules by replace directives
// to directories, which count only in the main module, so ours replaces each
// by its published version. All other requirements are taken over as they are,
// so that the binary is built from what the release was tested with; `go mod
// tidy` then drops those that the binary does not need.
func rewriteModule(upstream []byte, version string) ([]byte, error) {
	staging, err := stagingVersion(version)
	if err != nil {
		return nil, err
	}
	from, err := modfile.Parse("go.mod", upstream, nil)
	if err != nil {
		return nil, fmt.Errorf("parse go.mod of %s %s: %w", kubernetesModule, version, err)
	}
	to := new(modfile.File)
	if err := to.AddModuleStmt(binaryModule); err != nil {
		return nil, fmt.Errorf("name module: %w", err)
	}
	if from.Go != nil {
		if err := to.AddGoStmt(from.Go.Version); err != nil {
			return nil, fmt.Errorf("copy go version: %w", err)
		}
	}
	replaced := stagingModules(from)
	to.AddNewRequire(kubernetesModule, version, false)
	for _, require := range from.Require {
		if !replaced[require.Mod.Path] {
			to.AddNewRequire(require.Mod.Path, require.Mod.Version, require.Indirect)
		}
	}
	for _, replace := range from.Replace {
		module := replace.Old.Path
		if !replaced[module] {
			continue
		}
		to.AddNewRequire(module, staging, false)
		if err := to.AddReplace(module, "", module, staging); err != nil {
			return nil, fmt.Errorf("replace %s: %w", module, err)
		}
	}
	to.Cleanup()
	to.SortBlocks()
	return to.Format()
}

// stagingModules returns the modules that a go.mod replaces by directories of
// its own repository.
func stagingModules(file *modfile.File) map[string]bool {
	modules := map[string]bool{}
	for _, replace := range file.Replace {
		if replace.New.Version == "" && path.Base(replace.New.Path) == path.Base(replace.Old.Path) &&
			strings.HasPrefix(replace.New.Path, "./staging/") {
			modules[replace.Old.Path] = true
		}
	}
	return modules
}

// requiredKubernetes returns the Kubernetes version that a go.mod of our
// binary pins.
func requiredKubernetes(data []byte) (string, error) {
	file, err := modfile.Parse("go.mod", data, nil)
	if err != nil {
		return "", fmt.Errorf("parse go.mod: %w", err)
	}
	for _, require := range file.Require {
		if require.Mod.Path == kubernetesModule {
			return require.Mod.Version, nil
		}
	}
	return "", fmt.Errorf("go.mod does not require %s: %w", kubernetesModule, errdefs.ErrInvalidArgument)
}
