# SPDX-License-Identifier: Apache-2.0

FROM golang:1.26 AS build
WORKDIR /src
COPY go.mod go.sum ./
RUN go mod download
COPY . .
RUN CGO_ENABLED=0 go build -trimpath -ldflags '-s -w' -o /out/concord ./cmd/concord
# A new volume takes owner and mode from the folder that it covers.
RUN mkdir -p /out/data

# Nothing but the program, the certificates that database connections over TLS
# are checked with, and a user that is not root.
FROM scratch
COPY --from=build /etc/ssl/certs/ca-certificates.crt /etc/ssl/certs/
COPY --from=build /out/concord /concord
COPY --from=build --chown=65532:65532 /out/data /var/lib/concord
COPY --from=build --chown=65532:65532 /out/data /etc/concord/certs
USER 65532:65532
VOLUME /var/lib/concord
EXPOSE 7420 7421
ENTRYPOINT ["/concord"]
CMD ["serve", "--config", "/etc/concord/concord.yaml"]
