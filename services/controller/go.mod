module github.com/juicefs-csi/driver/services/controller

go 1.26.0

require (
	github.com/juicefs-csi/driver/libs v0.0.0
	github.com/juicefs-csi/driver/proto v0.0.0
	google.golang.org/grpc v1.85.0
	google.golang.org/protobuf v1.36.12
	github.com/container-storage-interface/spec v1.13.0
	k8s.io/api v0.37.2
	k8s.io/apimachinery v0.37.2
	k8s.io/client-go v0.37.2
	sigs.k8s.io/sig-storage-lib-external-provisioner/v13 v13.0.0
	github.com/containerd/errdefs v1.0.0
	github.com/spf13/pflag v1.0.10
	github.com/kubernetes-csi/csi-lib-utils v0.25.0
	github.com/prometheus/client_golang v1.24.1
	github.com/google/go-cmp v0.7.0
)

replace (
	github.com/juicefs-csi/driver/libs => ../../libs
	github.com/juicefs-csi/driver/proto => ../../proto
)
